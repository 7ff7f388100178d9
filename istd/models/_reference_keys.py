"""The names of the authors' weights, network by network: theirs → here.

A name is a prefix of a key that ends at a dot; of several that fit, the longest counts. What follows it in a
key is the same on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

Names = dict[str, str]

_FIVE = range(1, 6)  # stages, counted from 1 as theirs are


def _encoder(stages: range) -> Iterator[tuple[str, str]]:
    """The residual encoder of MLCL-Net and ALCL-Net, and the first blocks of GGL-Net's."""
    yield "stage.layer1", "encoder.stem"
    for s in stages:
        ours = f"encoder.stages.{s - 1}.0"
        if s == 1:
            yield "stage.resnet1_1.layer", f"{ours}.body"
        else:
            yield f"stage.resnet{s}_1.layer1", f"{ours}.body"
            yield f"stage.resnet{s}_1.layer2", f"{ours}.shortcut"


def _plain_blocks(stages: range) -> Names:
    return {
        f"stage.resnet{s}_{b}.layer": f"encoder.stages.{s - 1}.{b - 1}.body"
        for s, b in product(stages, (2, 3))
    }


def _excited_blocks(stages: range) -> Iterator[tuple[str, str]]:
    for s, b in product(stages, (2, 3)):
        theirs, ours = f"stage.resnet{s}_{b}", f"encoder.stages.{s - 1}.{b - 1}.body"
        yield f"{theirs}.layer1", ours
        yield f"{theirs}.SEAttention", f"{ours}.3"
        yield f"{theirs}.layer2.0", f"{ours}.4"
        yield f"{theirs}.layer2.1", f"{ours}.5"


def _attention_blocks(theirs: str, ours: str, blocks: int, shift: int = 0) -> Iterator[tuple[str, str]]:
    """The residual blocks with CBAM of DNANet and MSHNet."""
    for b in range(blocks):
        block = f"{ours}.{b + shift}"
        yield f"{theirs}.{b}", block
        yield f"{theirs}.{b}.ca", f"{block}.refine.channel"
        yield f"{theirs}.{b}.sa.conv1", f"{block}.refine.spatial.conv"


_MLCLNET: Names = {
    **dict(_encoder(range(1, 4))),
    **_plain_blocks(range(1, 4)),
    **{f"mlcl{s}.layer{j}": f"contrast.{s - 1}.branches.{j - 1}" for s, j in product((1, 2, 3), (1, 2, 3))},
    **{f"mlcl{s}.conv": f"contrast.{s - 1}.fuse" for s in (1, 2, 3)},
    **{f"conv{s}": f"lateral.{s - 1}" for s in (1, 2, 3)},
    "layer": "head",
}

_ALCLNET: Names = {
    **dict(_encoder(_FIVE)),
    **_plain_blocks(_FIVE),
    **{f"lcl{s}.layer1": f"contrast.{s - 1}" for s in _FIVE},
    **{f"sbam{s}.hl_layer": f"attention.{s - 1}.high" for s in _FIVE},
    **{f"sbam{s}.ll_layer": f"attention.{s - 1}.gate" for s in _FIVE},
    "layer": "head",
}

_GGLNET: Names = {
    **dict(_encoder(_FIVE)),
    **dict(_excited_blocks(_FIVE)),
    **{f"stage.Res{s}.layer1": f"encoder.supplements.{s - 1}.expand" for s in _FIVE},
    **{f"stage.Res{s}.layer2": f"encoder.supplements.{s - 1}.body" for s in _FIVE},
    **{f"lcl{s}.layer1": f"contrast.{s - 1}" for s in _FIVE},
    **{f"sbam{s}.hl_layer": f"guidance.{s - 1}.high" for s in _FIVE},
    **{f"sbam{s}.hl_layer_2.se.0": f"guidance.{s - 1}.channels.fc1" for s in _FIVE},
    **{f"sbam{s}.hl_layer_2.se.2": f"guidance.{s - 1}.channels.fc2" for s in _FIVE},
    **{f"sbam{s}.ll_layer.conv": f"guidance.{s - 1}.pixels.conv" for s in _FIVE},
    "layer": "head",
}

_MSHNET: Names = {
    "conv_init": "encoder.stages.0.0",
    **dict(_attention_blocks("encoder_0", "encoder.stages.0", 1, shift=1)),
    **{k: v for i in (1, 2, 3) for k, v in _attention_blocks(f"encoder_{i}", f"encoder.stages.{i}", 2)},
    **dict(_attention_blocks("middle_layer", "encoder.stages.4", 2)),
    **{k: v for i in range(4) for k, v in _attention_blocks(f"decoder_{i}", f"decoder.{i}", 2)},
    **{f"output_{i}": f"heads.{i}" for i in range(4)},
    "final": "join",
}

_DNANET: Names = {
    **{k: v for i in range(5) for k, v in _attention_blocks(f"conv{i}_0", f"encoder.stages.{i}", 2)},
    **{
        k: v
        for j in range(1, 5)
        for i in range(5 - j)
        for k, v in _attention_blocks(f"conv{i}_{j}", f"columns.{j - 1}.{i}", 2)
    },
    **{f"conv0_{i}_1x1": f"lateral.{i - 1}" for i in range(1, 5)},
    **dict(_attention_blocks("conv0_4_final", "join", 1)),
    **{f"final{n}": f"heads.{n - 1}" for n in range(1, 5)},
}


def _edge_pair(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Two edge compensation blocks, in training and deployed. The published files say pdc, the code cdc."""
    for b in (0, 1):
        block, own = f"{theirs}.double_conv.{b}", f"{ours}.{b}"
        yield f"{block}.rbr_identity", f"{own}.identity"
        yield f"{block}.rbr_reparam", f"{own}.0"
        for i, part in enumerate(("conv", "bn")):
            yield f"{block}.rbr_dense.{part}", f"{own}.dense.{i}"
            for edge in ("cdc", "pdc"):
                yield f"{block}.rbr_{edge}.conv_{edge}.{part}1", f"{own}.edge.{i}"
                yield f"{block}.rbr_{edge}.conv_{edge}.{part}2", f"{own}.point.{i}"


_REPISDNET: Names = {
    "backbone.inc.double_conv": "encoder.stages.0",
    **dict(_edge_pair("backbone.down1.maxpool_conv.1", "encoder.stages.1")),
    **dict(_edge_pair("backbone.down2.maxpool_conv.1", "encoder.stages.2")),
    **dict(_edge_pair("backbone.up3.conv", "decoder.1")),
    **dict(_edge_pair("backbone.up4.conv", "decoder.0")),
    **{f"ppm.features.{i}.{n}": f"pyramid.levels.{i}.{n - 1}" for i, n in product(range(4), (1, 2))},
    "cls": "head",
}


def _cross_block(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.attn_norm.body", f"{ours}.joint_norm"
    for name, own in (("k", "key"), ("v", "value")):
        yield f"{theirs}.channel_attn.mhead{name}", f"{ours}.attention.{own}.0"
        yield f"{theirs}.channel_attn.{name}", f"{ours}.attention.{own}.1"
    for s in range(1, 5):
        i = s - 1
        yield f"{theirs}.attn_norm{s}.body", f"{ours}.norms.{i}"
        yield f"{theirs}.ffn_norm{s}.body", f"{ours}.forward_norms.{i}"
        yield f"{theirs}.channel_attn.mhead{s}", f"{ours}.attention.queries.{i}.0"
        yield f"{theirs}.channel_attn.q{s}", f"{ours}.attention.queries.{i}.1"
        yield f"{theirs}.channel_attn.project_out{s}", f"{ours}.attention.project.{i}"
        for j in range(4):
            yield f"{theirs}.channel_attn.q{s}_attn{j + 1}", f"{ours}.attention.unused.{4 * i + j}"
        for part, own in (
            ("project_in", "expand"),
            ("dwconv3x3", "small"),
            ("dwconv5x5", "large"),
            ("project_out", "project"),
            ("eca.conv.0", "neighbours"),
        ):
            yield f"{theirs}.ffn{s}.{part}", f"{ours}.feed_forwards.{i}.{own}"


def _up_block(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.coatt.mlp_x.1", f"{ours}.skip"
    yield f"{theirs}.coatt.mlp_g.1", f"{ours}.coarse"
    for n in (0, 1):
        yield f"{theirs}.nConvs.{n}.conv", f"{ours}.body.{3 * n}"
        yield f"{theirs}.nConvs.{n}.norm", f"{ours}.body.{3 * n + 1}"


_SCTRANSNET: Names = {
    "inc": "encoder.stages.0",
    **{f"down_encoder{i}": f"encoder.stages.{i}" for i in range(1, 5)},
    **{
        f"mtc.embeddings_{s}.{part}": f"transformer.{own}.{s - 1}"
        for s, (part, own) in product(
            range(1, 5), (("patch_embeddings", "embed"), ("position_embeddings", "unused"))
        )
    },
    **{k: v for b in range(4) for k, v in _cross_block(f"mtc.encoder.layer.{b}", f"transformer.blocks.{b}")},
    **{f"mtc.encoder.encoder_norm{s}.body": f"transformer.norms.{s - 1}" for s in range(1, 5)},
    **{f"mtc.reconstruct_{s}.conv": f"transformer.restore.{s - 1}.0" for s in range(1, 5)},
    **{f"mtc.reconstruct_{s}.norm": f"transformer.restore.{s - 1}.1" for s in range(1, 5)},
    **{k: v for n in range(1, 5) for k, v in _up_block(f"up_decoder{n}", f"decoder.{n - 1}")},
    "outc": "heads.0",
    **{f"gt_conv{n}.0": f"heads.{n - 1}" for n in range(2, 6)},
    "outconv": "mix",
}

BACKBONE_NAMES: dict[str, Names] = {
    "mlclnet": _MLCLNET,
    "alclnet": _ALCLNET,
    "gglnet": _GGLNET,
    "mshnet": _MSHNET,
    "dnanet": _DNANET,
    "repisdnet": _REPISDNET,
    "sctransnet": _SCTRANSNET,
}

SCAM_NAMES: Names = {
    "layer_fuse_logits": "fusion",
    "attn_score": "attention",
    "mlp": "mlp",
    "gamma_gate": "gate",
}


def rename(key: str, names: Names) -> str | None:
    """The key here, or None if no name fits."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        ours = names.get(".".join(parts[:count]))
        if ours is not None:
            return ".".join([ours, *parts[count:]])
    return None
