from __future__ import annotations

import copy
import json
import pickle
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from istd.errors import ModelError
from istd.models import DEFAULT_VFM, FrozenVFM, create_vfm

ARCH = "test_vit"  # 0.3 M parameters, 6 blocks, 64 channels, 16-pixel patches


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model(ARCH, num_classes=0).state_dict()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, and a hub that refuses connections. Returns the cache's folder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def same_weights(vfm: FrozenVFM, weights: dict[str, Tensor]) -> bool:
    own = vfm.model.state_dict()
    return all(torch.equal(own[key], value) for key, value in weights.items())


def test_maps_have_the_promised_shape():
    vfm = create_vfm(f"random:{ARCH}")
    assert (vfm.num_layers, vfm.embed_dim, vfm.patch_size) == (6, 64, (16, 16))
    maps = vfm(torch.rand(2, 1, 40, 33))
    assert maps.shape == (2, 6, 64, 3, 3)
    assert not maps.requires_grad


def test_the_default_is_an_architecture_that_fits():
    vfm = create_vfm(f"random:{DEFAULT_VFM}")
    assert vfm(torch.rand(1, 3, 32, 48)).shape == (1, 12, 384, 2, 3)
    assert vfm.patch_size == (16, 16)


def test_a_loaded_model_may_lie_on_any_device_in_any_precision() -> None:
    half = create_vfm(timm.create_model(ARCH, num_classes=0, dynamic_img_size=True).to(torch.bfloat16))
    maps = half(torch.rand(1, 1, 32, 32))
    assert (maps.dtype, half.embed_dim) == (torch.bfloat16, 64)
    assert bool(torch.isfinite(maps).all())
    elsewhere = create_vfm(timm.create_model(ARCH, num_classes=0, dynamic_img_size=True).to("meta"))
    assert elsewhere(torch.rand(1, 1, 32, 32, device="meta")).shape == maps.shape


def test_only_the_last_layers_on_request():
    every, last = create_vfm(f"random:{ARCH}"), create_vfm(f"random:{ARCH}", num_layers=2)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(last(image), every(image)[:, -2:])
    for wrong in (0, 7):
        with pytest.raises(ModelError, match="6 blocks"):
            create_vfm(f"random:{ARCH}", num_layers=wrong)


def test_images_are_normalised_repeated_and_padded_by_their_border():
    vfm = create_vfm(f"random:{ARCH}", num_layers=1)  # mean and deviation ½
    image = torch.rand(1, 1, 20, 16)
    padded = torch.cat([image, image[:, :, -1:].expand(-1, -1, 12, -1)], dim=2).expand(-1, 3, -1, -1)
    model: Any = vfm.model
    with torch.no_grad():
        tokens = model.forward_features((padded - 0.5) / 0.5)[:, model.num_prefix_tokens :]
    torch.testing.assert_close(vfm(image)[:, 0].flatten(2).mT, tokens)


def test_every_map_is_normalised_unless_raw_ones_are_asked_for():
    vfm = create_vfm(f"random:{ARCH}")
    model: Any = vfm.model
    image = torch.rand(1, 3, 64, 64)
    normalised, raw = vfm(image), create_vfm(model, norm=False)(image)
    assert not torch.allclose(normalised, raw, atol=0.1)
    with torch.no_grad():
        torch.testing.assert_close(model.norm(raw.movedim(2, -1)).movedim(-1, 2), normalised)


def test_it_stays_in_eval_mode_and_has_no_trainable_weight():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vfm = create_vfm(f"random:{ARCH}")
            self.head = nn.Linear(2, 2)

    holder = Holder().train()
    assert not holder.vfm.training
    assert not any(module.training for module in holder.vfm.model.modules())
    assert not any(parameter.requires_grad for parameter in holder.vfm.model.parameters())
    assert set(holder.state_dict()) == {"head.weight", "head.bias"}
    assert [name for name, _ in holder.named_parameters()] == ["head.weight", "head.bias"]
    holder.double()  # what moves the holder moves the model, seen or not
    assert holder.vfm(torch.rand(1, 1, 16, 16)).dtype == torch.float64


def test_random_weights_follow_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = create_vfm(f"random:{ARCH}", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert create_vfm(f"random:{ARCH}", seed=3).fingerprint == first.fingerprint
    assert create_vfm(f"random:{ARCH}", seed=4).fingerprint != first.fingerprint
    assert first.is_random
    assert "random" in first.origin
    assert "random" in repr(first)


def test_plain_random_is_a_small_vit():
    vfm = create_vfm("random", num_layers=1)
    assert vfm.is_random
    assert vfm.num_parameters < 6e6


def test_the_fingerprint_covers_weights_and_settings(weights: dict[str, Tensor]):
    model = timm.create_model(ARCH, num_classes=0, dynamic_img_size=True)
    model.load_state_dict(weights)
    vfm = create_vfm(model)
    first = vfm.fingerprint
    assert first == vfm.fingerprint == copy.deepcopy(vfm).fingerprint
    others = {
        create_vfm(model, num_layers=2).fingerprint,
        create_vfm(model, norm=False).fingerprint,
    }
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    others.add(vfm.fingerprint)
    assert len(others) == 3
    assert first not in others


@pytest.mark.parametrize("how", ["metadata", "argument", "prefix", "config", "folder", "pth", "wrapped"])
def test_weight_files(tmp_path: Path, weights: dict[str, Tensor], how: str):
    path = tmp_path / "model.safetensors"
    spec: str | Path = path
    kwargs: dict[str, Any] = {}
    if how == "metadata":
        save_file(weights, path, metadata={"architecture": ARCH})
    elif how in ("pth", "wrapped"):
        path = tmp_path / "my weights.pth"
        torch.save(
            {"state_dict": {f"module.{k}": v for k, v in weights.items()}} if how == "wrapped" else weights,
            path,
        )
        spec = f"{ARCH}:{path}"
    else:
        save_file(weights, path)
        if how == "argument":
            kwargs["arch"] = ARCH
        elif how == "prefix":
            spec = f"{ARCH}:{path}"
        else:
            config = {
                "architecture": ARCH,
                "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]},
            }
            (tmp_path / "config.json").write_text(json.dumps(config))
            spec = tmp_path if how == "folder" else path
    vfm = create_vfm(spec, **kwargs)
    assert same_weights(vfm, weights)
    assert not vfm.is_random
    assert vfm.name == ARCH
    assert path.name in vfm.origin
    mean = (0.1, 0.2, 0.3) if how in ("config", "folder") else (0.5, 0.5, 0.5)
    torch.testing.assert_close(vfm._hidden[0].mean.flatten(), torch.tensor(mean))


def test_a_file_of_unknown_architecture_is_refused(tmp_path: Path, weights: dict[str, Tensor]):
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="architecture of this weight file is not known"):
        create_vfm(tmp_path / "w.safetensors")


def test_a_file_of_another_architecture_is_refused_instead_of_half_loaded(
    tmp_path: Path, weights: dict[str, Tensor]
):
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"could not be loaded|does not hold"):
        create_vfm(tmp_path / "w.safetensors", arch="test_vit3")
    save_file({"unrelated": torch.zeros(1)}, tmp_path / "u.safetensors")
    with pytest.raises(ModelError, match="weights are missing"):
        create_vfm(tmp_path / "u.safetensors", arch=ARCH)
    incomplete = {key: value for key, value in weights.items() if key != "blocks.3.attn.qkv.bias"}
    save_file(incomplete, tmp_path / "i.safetensors")
    with pytest.raises(ModelError, match=r"blocks\.3\.attn\.qkv\.bias"):
        create_vfm(tmp_path / "i.safetensors", arch=ARCH)


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("damage", ["truncated", "text", "code"])
def test_damaged_and_dangerous_files_are_refused(tmp_path: Path, weights: dict[str, Tensor], damage: str):
    path = tmp_path / "w.pth"
    torch.save(weights, path)
    marker = tmp_path / "executed"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:20000])
    elif damage == "text":
        path.write_text("not a checkpoint")
    else:
        path.write_bytes(pickle.dumps({"w": _Evil(marker)}, protocol=2))
    with pytest.raises(ModelError, match="could not be loaded"):
        create_vfm(f"{ARCH}:{path}")
    assert not marker.exists()
    broken = tmp_path / "w.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0garbage")
    with pytest.raises(ModelError, match="safetensors"):
        create_vfm(broken)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("missing.safetensors", "no such weight file"),
        (f"{ARCH}:missing.pth", "no such weight file"),
        ("vit_smal_patch16_dinov3", "vit_small_patch16_dinov3"),
        (f"{ARCH}.no_such_tag", "no pretrained weights tagged"),
        ("random:resnet18", "images of any size"),
        ("random:swin_tiny_patch4_window7_224", "not a vision transformer"),
    ],
)
def test_names_that_cannot_be_are_refused(spec: str, match: str):
    with pytest.raises(ModelError, match=match):
        create_vfm(spec)


def test_an_empty_folder_and_a_broken_config_are_refused(tmp_path: Path, weights: dict[str, Tensor]):
    with pytest.raises(ModelError, match="no weight file"):
        create_vfm(tmp_path)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not readable JSON"):
        create_vfm(tmp_path)


def test_offline_without_the_weights_is_a_quick_error_never_random(offline: Path):
    started = time.monotonic()
    with pytest.raises(ModelError, match="could not be downloaded") as error:
        create_vfm(ARCH)
    assert time.monotonic() - started < 15
    for advice in ("hf download", "weight file", "--vfm none"):
        assert advice in str(error.value)


def test_offline_with_the_weights_in_the_cache(offline: Path, weights: dict[str, Tensor]):
    repo: str = timm.get_pretrained_cfg(ARCH).hf_hub_id
    folder = offline / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    # As published: with a classifier, which is left out.
    save_file(
        weights | {"head.weight": torch.zeros(1000, 64)},
        folder / "snapshots" / ("0" * 40) / "model.safetensors",
    )
    vfm = create_vfm(ARCH)
    assert same_weights(vfm, weights)
    assert not vfm.is_random
    assert repo in vfm.origin
    file = offline.parent / "w.safetensors"
    save_file(weights, file)
    assert create_vfm(file, arch=ARCH).fingerprint == vfm.fingerprint  # the same weights, however found


def _hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)  # their constructors ask for an HTTP response
    Exception.__init__(error, "from the hub")
    return error


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (huggingface_hub.errors.GatedRepoError, "accept it at huggingface.co/timm/"),
        (huggingface_hub.errors.RepositoryNotFoundError, "no such model"),
        (huggingface_hub.errors.EntryNotFoundError, "no weight file"),
        (huggingface_hub.errors.OfflineModeIsEnabled, "could not be downloaded"),
        (TimeoutError, "could not be downloaded"),
    ],
)
def test_refusals_of_the_hub_are_explained(
    offline: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], match: str
):
    def refuse(url: str, **kwargs: Any) -> None:
        raise _hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(ModelError, match=match):
        create_vfm(ARCH)


def test_weights_are_downloaded_once_the_hub_has_answered(
    offline: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]
):
    file = offline.parent / "model.safetensors"
    save_file(weights, file)
    asked: list[str] = []

    def metadata(url: str, **kwargs: Any) -> None:
        asked.append(url)

    def download(repo: str, filename: str, *, local_files_only: bool = False, **kwargs: Any) -> str:
        if local_files_only:
            raise _hub_error(huggingface_hub.errors.LocalEntryNotFoundError)
        asked.append(filename)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert same_weights(create_vfm(ARCH), weights)
    assert len(asked) == 2
    assert asked[1] == "model.safetensors"


def test_a_loaded_module_is_frozen_in_place(weights: dict[str, Tensor]):
    model = timm.create_model(ARCH, num_classes=0, dynamic_img_size=True).train()
    vfm = create_vfm(model, num_layers=1)
    assert vfm.model is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not vfm.is_random


def test_modules_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="not a vision transformer"):
        create_vfm(nn.Conv2d(3, 4, 1))
    with pytest.raises(ModelError, match="dynamic_img_size=True"):
        create_vfm(timm.create_model("vit_tiny_patch16_224", num_classes=0))


@pytest.mark.parametrize(
    "image", [torch.rand(1, 16, 16), torch.rand(1, 2, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)]
)
def test_images_of_another_kind_are_refused(image: Tensor):
    with pytest.raises(ModelError, match="image it cannot use"):
        create_vfm(f"random:{ARCH}")(image)
