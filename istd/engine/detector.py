"""A trained detector: from a gray image to a probability map, and to and from a file."""

from __future__ import annotations

import hashlib
import math
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._paths import given_path
from ..errors import CheckpointError, ConfigError, ModelError
from ..models import (
    Backbone,
    FrozenVFM,
    TeacherStudent,
    create_model,
    create_teacher_student,
    create_vfm,
    final_logits,
)
from .config import TrainConfig
from .methods import method_class
from .run_folder import RunFolder
from .state_file import load_state, read_kind, save_state

NO_VFM = "none"


def build_vfm(config: TrainConfig, device: torch.device) -> FrozenVFM | None:
    """The frozen model that `--vfm` names, or None where the method needs none. Raises `ModelError`."""
    if not method_class(config.method).has_teacher or config.vfm == NO_VFM:
        return None
    return create_vfm(config.vfm, num_layers=config.vfm_layers).to(device)


def build_model(config: TrainConfig, vfm: FrozenVFM | None, mean: float, std: float) -> nn.Module:
    """The network that `config` trains, on the CPU: a plain backbone, or teacher and student.

    Args:
        config: which one.
        vfm: the frozen model that SCAM is fitted to, or None.
        mean, std: of the training images in [0, 1]; the network normalises its input by them.
    """
    options: dict[str, Any] = {"prior": config.prior, "mean": mean, "std": std}
    if not method_class(config.method).has_teacher:
        return create_model(config.backbone, **options)
    return create_teacher_student(
        config.backbone,
        vfm,
        coupling=config.coupling,
        modulation=config.modulation,
        scale=config.modulation_scale,
        **options,
    )


def to_fast_layout(model: nn.Module) -> nn.Module:
    """The network itself, in the memory layout in which convolutions of these shapes are fastest.

    About a third faster than the default on two CPU cores (measured).
    """
    return model.to(memory_format=torch.channels_last)


class Detector:
    """A network with what it needs to take a gray image.

    Args:
        model: a backbone, or `TeacherStudent`.
        vfm: the frozen model that the teacher needs, or None.
        header: what is written with the weights: backbone, method, settings.
        role: whose answer it gives, "student" or "teacher", unless asked for the other's.
    """

    def __init__(
        self, model: nn.Module, vfm: FrozenVFM | None, header: dict[str, Any], role: str = "student"
    ) -> None:
        self.model = to_fast_layout(model)
        self.vfm = vfm
        self.header = header
        self.role = role

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher besides the student."""
        return isinstance(self.model, TeacherStudent)

    @property
    def backbone(self) -> Backbone:
        """The student's network: all that is needed to detect."""
        model = self.model.student if isinstance(self.model, TeacherStudent) else self.model
        assert isinstance(model, Backbone)
        return model

    @property
    def stride(self) -> int:
        """Cuts of an image at multiples of it leave the grids of the networks where they were."""
        patch = (1, 1) if self.vfm is None else self.vfm.patch_size
        return math.lcm(self.backbone.stride, *patch)

    def fingerprint(self) -> str:
        """A hash of the weights, and of the frozen model's if there is one."""
        digest = hashlib.sha256((self.vfm.fingerprint if self.vfm is not None else "").encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def logits(self, image: Tensor, role: str | None = None) -> Tensor:
        """Logits [B, 1, H, W] for images, float [B, 1, H, W] in [0, 1]; evaluation mode, no graph.

        They are those of `role`, by default the detector's own: a detector that was loaded as the teacher
        answers as the teacher.

        Images may lie on another device than the network; the logits lie on the network's.

        Raises:
            ModelError: images of whole numbers, which can be 0 to 255.
        """
        if not image.is_floating_point():
            raise ModelError(
                "a detector takes images in [0, 1]",
                found=f"a tensor of {image.dtype}",
                expected="float [B, 1, H, W]",
                fix="divide 8-bit images by 255",
            )
        self.model.eval()
        image = image.to(next(self.model.parameters()))
        with torch.no_grad():
            if not isinstance(self.model, TeacherStudent):
                return final_logits(self.model(image))
            if (role or self.role) == "student":
                return self.model.student_logits(image)
            return self.model.teacher_logits(image, None if self.vfm is None else self.vfm(image.float()))

    def deployed(self) -> Detector:
        """The student alone in its form to deploy (`Backbone.fuse`): the same answers from fewer layers."""
        return Detector(self.backbone.fuse(), None, self.header)

    def save_student(self, path: str | Path) -> None:
        """Write the plain backbone: all that is needed to detect."""
        weights = dict(self.backbone.state_dict())
        save_state(path, {"header": self.header, "weights": weights}, kind="student")

    def save_teacher(self, path: str | Path) -> None:
        """Write teacher and student; the frozen model's weights are named in the header, not stored."""
        save_state(path, {"header": self.header, "weights": dict(self.model.state_dict())}, kind="teacher")


def make_header(
    config: TrainConfig, vfm: FrozenVFM | None, mean: float, std: float, split_hash: str | None = None
) -> dict[str, Any]:
    """What a weight file says of itself; `split_hash` is of the splits that the run used."""
    return {
        "backbone": config.backbone,
        "method": config.method,
        "coupling": config.coupling,
        "modulation": config.modulation,
        "vfm": None if vfm is None else vfm.name,
        "vfm_fingerprint": None if vfm is None else vfm.fingerprint,
        "mean": mean,
        "std": std,
        "split_hash": split_hash,
        "config": config.to_dict(),
    }


def choose_role(path: str | Path, role: str | None = None) -> str:
    """Whose answer to take: `role` where it is given, else what a weight file is of; of a run, the student.

    Raises:
        ConfigError: an unknown role.
    """
    if role not in (None, "student", "teacher"):
        raise ConfigError("--role is unknown", found=role, expected="student | teacher")
    return role or ("teacher" if read_kind(path) == "teacher" else "student")


def load_detector(
    path: str | Path,
    *,
    role: str | None = None,
    device: str | torch.device = "cpu",
    vfm: str | None = None,
    backbone: str | None = None,
) -> Detector:
    """Read a detector from a run folder or a weight file.

    Args:
        path: a run folder, or a `student.safetensors` / `teacher.safetensors` in one.
        role: "student" needs the backbone alone; "teacher" also the frozen model it was trained with. None:
            see `choose_role`.
        device: where to put it.
        vfm: another name or file for the frozen model, if it lies elsewhere on this machine.
        backbone: if given, the architecture that the checkpoint has to be of.

    Raises:
        CheckpointError: no such file, damaged, of another backbone, or trained with another frozen model.
        ModelError: the teacher's frozen model cannot be loaded.
    """
    path = given_path(path)
    role = choose_role(path, role)
    if path.is_dir():
        run = RunFolder(path)
        path = run.weights(role)
        if role == "teacher" and not path.is_file() and run.student.is_file():
            raise CheckpointError(
                "this run has no teacher",
                where=run.root,
                expected="a run of a method with a teacher, such as --method semantic-prior",
                fix="use the student",
            )
    header, weights = _read_weights(path, role)
    if backbone is not None and header["backbone"] != backbone:
        raise CheckpointError(
            "the checkpoint is of another backbone", where=path, found=header["backbone"], expected=backbone
        )
    mean, std = header["mean"], header["std"]
    target = torch.device(device)
    frozen: FrozenVFM | None = None
    if role == "student":
        model: nn.Module = create_model(header["backbone"], mean=mean, std=std)
    else:
        config = _teacher_config(header, path)
        if header["vfm"] is not None:
            frozen = create_vfm(vfm or config.vfm, num_layers=config.vfm_layers)
            if frozen.fingerprint != header["vfm_fingerprint"]:
                raise CheckpointError(
                    "the teacher was trained with another frozen model",
                    where=path,
                    found=f"{frozen.name} ({frozen.fingerprint[:12]})",
                    expected=f"{header['vfm']} ({str(header['vfm_fingerprint'])[:12]})",
                    fix="give the same weights with --vfm",
                )
            frozen = frozen.to(target)
        model = build_model(config, frozen, mean, std)
    load_weights(model, weights, path)
    return Detector(model.to(target).eval(), frozen, header, role)


_STUDENT_HEADER: dict[str, type | types.UnionType] = {
    "backbone": str,
    "mean": int | float,
    "std": int | float,
    "config": dict,
}
_TEACHER_HEADER = {**_STUDENT_HEADER, "vfm": str | None, "vfm_fingerprint": str | None}


def _read_weights(path: Path, role: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and weights of a file that anybody may have written. Raises `CheckpointError`."""
    state = load_state(path, kind=role, device="cpu")
    header: Any = state.get("header")
    weights: Any = state.get("weights")
    needed = _STUDENT_HEADER if role == "student" else _TEACHER_HEADER
    if not isinstance(header, dict):
        wrong = ["header"]
    else:
        wrong = [name for name, kind in needed.items() if not isinstance(header.get(name, ...), kind)]
        wrong += [name for name in ("mean", "std") if name not in wrong and not 0 <= header[name] < 1e6]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        wrong.append("weights")
    if wrong:
        raise CheckpointError(
            "the weight file lacks what a detector needs",
            where=path,
            found=f"nothing usable as {', '.join(wrong)}",
            expected=f"a {role} written by istd",
            fix="use another checkpoint of the run folder, or train again",
        )
    return header, weights


def _teacher_config(header: dict[str, Any], path: Path) -> TrainConfig:
    """The settings that a teacher is built by; a student needs none, so its file outlives their changes."""
    try:
        return TrainConfig.from_dict(header["config"])
    except (ConfigError, TypeError) as error:
        raise CheckpointError(
            "the settings of this teacher are of another version of istd",
            where=path,
            found=error,
            fix="use the version that wrote it, or the student of the run",
        ) from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load `weights` into `model`; raises `CheckpointError` naming the first entries that do not fit."""
    own = model.state_dict()
    missing = sorted(set(own) - set(weights))
    unknown = sorted(set(weights) - set(own))
    common = sorted(set(own) & set(weights))
    shapes = [name for name in common if own[name].shape != weights[name].shape]
    kinds = [name for name in common if own[name].is_floating_point() != weights[name].is_floating_point()]
    wild = [name for name in common if not bool(torch.isfinite(weights[name]).all())]
    if missing or unknown or shapes or kinds or wild:
        parts = [
            f"{title}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
            for title, names in (
                ("missing", missing),
                ("unknown", unknown),
                ("of another shape", shapes),
                ("of another kind of number", kinds),
                ("not finite", wild),
            )
            if names
        ]
        raise CheckpointError(
            "the weights do not fit the network",
            where=path,
            found="; ".join(parts),
            expected=f"{len(own)} entries of {type(model).__name__}",
            fix="give the --backbone and --method that the checkpoint was trained with",
        )
    model.load_state_dict(weights)
