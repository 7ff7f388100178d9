"""Everything that decides a training run, in one typed, serialisable place."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from ..labels import list_initializations
from ..labels.levels import HIGHEST_FRACTION
from ..models import DEFAULT_VFM, list_models
from ._setting_types import check_type, is_optional, literal_choices, parse, shown
from .presets import DEEP_SUPERVISION, METHOD_PRESETS, method_preset, scaled_interval

HypergradientName = Literal["off", "gauss-newton", "unrolled", "implicit", "reference"]
CouplingName = Literal["shared", "separate"]
ModulationName = Literal["head", "cascade"]
LossName = Literal["bce", "bce-iou", "hard-bce", "focal"]
SelectionName = Literal["auto", "val-masks", "val-labels", "last"]
LockName = Literal["points", "saturated"]
PrecisionName = Literal["float32", "bfloat16", "float64"]

_PRESET: Any = None
"""The default of a field whose value is the method's own (`presets.py`); a configuration never keeps it."""

_POSITIVE = frozenset(
    {
        "lr",
        "outer_lr",
        "clusters",
        "vfm_layers",
        "evolve_every",
        "outer_every",
        "eval_every",
        "boundary_clusters",
        "process_timeout",
    }
)
_LOWEST = {"epochs": 1, "crop": 16, "batch_size": 1, "outer_steps": 1, "unroll_steps": 1}
_UPPER_BOUNDS = {
    "crop": 8193,  # the side of the largest image that is read, and one
    "ema": 1.0,  # weights that never move
}
_FRACTIONS = (
    "target_fraction",
    "distractor_fraction",
    "evolve_start",
    "mine_until",
    "val_fraction",
    "contrast_fraction",
    "label_decay",
    "lr_factor",
    "ema",
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Lengths of phases are fractions of `epochs`, so that a short run is the published schedule in small. What
    is left open takes the method's preset when the configuration is made (`dataclasses.replace` with another
    method keeps the values there are). Elsewhere `None` means "derive it"; the derived value is a property.

    Some that do not speak for themselves:
        vfm_cache: "full-image" cuts the crops' hidden maps out of those of their whole images, which are kept
            on the disk in at most `vfm_cache_gb` GiB: faster, and an approximation (`features.py`).
        modulation_scale: s of the modulation (`istd.models.SCAM`); None is the backbone's own.
        lr_milestones: fractions of the run after which `lr_schedule="step"` multiplies by `lr_factor`.
        augment_warp: rotate, shift and scale crops too, which blurs labels; the focal loss counts exact ones.
        target_fraction, distractor_fraction: shares of the crops that contain a target, and a place that
            looks like one (`istd.data.find_distractors`); the rest is cut anywhere.
        prior: the share of target pixels that an untrained network predicts, by the bias of its head; None
            keeps the network's own start.
        ema: decay of the moving average of the weights, which is what evolves labels, is validated and is
            kept (`averaging.py`); 0 keeps the weights as they are.
        precision: of the networks in inner steps, label evolution and validation. "bfloat16" is autocast;
            weights, losses, hypergradients and the final evaluation stay in float32. In "float64" all of
            these are, to tell rounding from faults; probabilities and labels stay in float32.
        deep_supervision: how losses of several heads are joined; "auto" is the backbone's own way.
        clusters: how many cluster weights; None has as many images in each as the reference.
        outer_every, outer_steps: epochs between visits of the outer problem, and outer steps at each.
        implicit_damping: added to the Hessian's diagonal with `hypergradient="implicit"`.
        distill_teacher: weight of the distillation term in the teacher's loss.
        student_weight: weight of the student's own loss in the inner problem; 0 is the paper's inner loss.
        gate_l1: weight of the mean absolute SCAM gate.
        contrast_fraction: where `label_init` "levels" and "contrast" expect a target's boundary; None is
            their own default. With `trusted_masks` it is the prior of the calibration, and with "learned",
            which needs some, of the fractions.
        boundary_clusters: `label_init="learned"` learns a boundary fraction for each of so many kinds of
            targets (`istd.labels.learn`); a dozen masks can hardly tell more than one.
        trusted_masks: how many training images, drawn by `val_seed`, may show their masks: these calibrate
            the start of the other labels, and are the labels of their images, for good. 0: masks train
            nothing but a method of full supervision.
        evolve_start: fraction of the run before which labels stay as they are.
        evolve_loss: labels evolve only once the mean loss of an epoch was below it; 0 asks for nothing.
        label_fall: what the label of a predicted target does where the prediction ends: "decay", as
            published, or "follow" it down as fast as up (`istd.labels.evolve_both_ways`).
        label_meet, label_rise, label_decay, lock: see `istd.labels.EvolutionSettings`. With
            `lock="saturated"` labels are also rounded to 8 bits whenever they evolve, as in the reference.
        evolve_every: epochs between label evolutions; None is 5 as published, fewer in shorter runs.
        mining: "bounded", or "reference", the rule of PAL's code (`istd.labels.REFERENCE_MINING`).
        mine_until: fraction of the run after which images that still wait are not let in any more.
        memory_gb: what the pixels of images and masks may take on the device, in GiB; None is half of what is
            free when they are loaded. What does not fit stays in the packed file: slower, and the same run
            bit for bit.
        process_timeout: seconds that a process of a run under torchrun waits for a step or an answer of the
            others before it gives up. It waits for longer work of a process that shows signs of life, and
            notices at once that one has died.
        val_fraction, val_seed: which training images are held out where the data has no `val` split; the
            same ones for every `seed`, so that runs over several seeds compare.
    """

    # What to train, on what.
    data: str
    method: str = "semantic-prior"
    backbone: str = "mlclnet"
    vfm: str = DEFAULT_VFM
    vfm_layers: int | None = None
    vfm_cache: Literal["off", "full-image"] = "off"
    vfm_cache_gb: float = 8.0
    hypergradient: HypergradientName = "gauss-newton"
    coupling: CouplingName = "shared"
    modulation: ModulationName = "head"
    modulation_scale: float | None = None

    # Schedule and optimisation.
    epochs: int = _PRESET
    crop: int = 256
    batch_size: int = 16
    seed: int = 0
    optimizer: Literal["adamw", "adam"] = _PRESET
    lr: float = _PRESET
    weight_decay: float = _PRESET
    lr_schedule: Literal["constant", "cosine", "step"] = _PRESET
    lr_milestones: tuple[float, ...] = (0.5, 0.75)
    lr_factor: float = 0.1
    loss: LossName = _PRESET
    deep_supervision: Literal["auto", "mean", "sum"] = "auto"
    target_fraction: float = 0.5
    distractor_fraction: float = 0.0
    prior: float | None = 0.01
    ema: float = _PRESET
    precision: PrecisionName = "float32"
    augment: bool = True
    augment_warp: bool = _PRESET

    # The bilevel problem.
    clusters: int | None = None
    outer_lr: float = _PRESET
    outer_every: int | None = None
    outer_steps: int = 4
    unroll_steps: int = 1
    implicit_damping: float = 100.0
    distill_teacher: float = 0.1
    student_weight: float = 1.0
    gate_l1: float = 0.005

    # Labels.
    label_init: str = _PRESET
    contrast_fraction: float | None = None
    trusted_masks: int = 0
    boundary_clusters: int = 4
    boundary_hypergradient: Literal["unrolled", "implicit"] = "unrolled"
    lock: LockName = "points"
    label_decay: float = _PRESET
    label_meet: Literal["core", "label"] = _PRESET
    label_rise: Literal["average", "raise"] = "average"
    label_fall: Literal["decay", "follow"] = "decay"
    evolve_start: float = _PRESET
    evolve_loss: float = _PRESET
    evolve_every: int | None = None
    mining: Literal["bounded", "reference"] = "bounded"
    mine_until: float = 0.8

    # Selection and bookkeeping.
    selection: SelectionName = "auto"
    eval_every: int | None = None
    val_fraction: float = 0.2
    val_seed: int = 0
    device: str = "auto"
    memory_gb: float | None = None
    checkpoint_seconds: float = 300.0
    process_timeout: float = 1800.0

    def __post_init__(self) -> None:
        self._fill_in()
        self._check_each()
        if self.coupling == "separate" and self.student_weight == 0 and self.hypergradient != "reference":
            raise ConfigError(
                "nothing would train the student",
                found="coupling=separate with student_weight=0",
                fix="give the student a weight, or share the network (coupling=shared)",
            )
        if self.target_fraction + self.distractor_fraction > 1 + 1e-9:
            raise ConfigError(
                "crops on targets and on distractors are more than all",
                found=f"target_fraction={self.target_fraction}, "
                f"distractor_fraction={self.distractor_fraction}",
                expected="at most 1 together",
            )
        if self.label_fall == "follow" and self.label_rise == "raise":
            raise ConfigError(
                "labels cannot both follow predictions down and never fall",
                found="label_fall=follow with label_rise=raise",
                fix="take label_rise=average, or label_fall=decay",
            )
        self._check_boundary()
        if self.batch_size < 2 and METHOD_PRESETS[self.method].uses_clusters:
            raise ConfigError(
                "cluster weights compare the images of a batch",
                found=f"--batch-size {self.batch_size}",
                expected=f"at least 2 with --method {self.method}",
            )

    def _check_each(self) -> None:
        for item in dataclasses.fields(self):
            name, value, hint = item.name, getattr(self, item.name), _HINTS[item.name]
            choices = setting_choices(name)
            if choices and value not in choices and not (value is None and is_optional(hint)):
                raise ConfigError(
                    f"{shown(name)} has an unknown value", found=value, expected=" | ".join(map(str, choices))
                )
            if not choices:
                check_type(
                    name, value, hint, positive=name in _POSITIVE, below=_UPPER_BOUNDS.get(name, 2**31)
                )
        if self.backbone not in list_models():
            raise ConfigError(
                "--backbone is unknown", found=self.backbone, expected=" | ".join(list_models())
            )
        for name, low in _LOWEST.items():
            if getattr(self, name) < low:
                raise ConfigError(
                    f"{shown(name)} is too small", found=getattr(self, name), expected=f"at least {low}"
                )
        for name in _FRACTIONS:
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{shown(name)} is a fraction", found=value, expected="0 to 1")

    def _check_boundary(self) -> None:
        fraction = self.contrast_fraction
        if self.label_init == "levels" and fraction is not None and fraction > HIGHEST_FRACTION:
            raise ConfigError(
                "the boundary of a blurred point cannot be expected as high",
                found=f"contrast_fraction={fraction:g} with label_init=levels",
                expected=f"at most {HIGHEST_FRACTION:g}",
            )
        if self.label_init == "learned" and METHOD_PRESETS[self.method].supervision == "points":
            if self.trusted_masks == 0:
                raise ConfigError(
                    "boundary fractions are learned from trusted masks",
                    found="label_init=learned with trusted_masks=0",
                    fix="allow some with --set trusted_masks=K, or start from --set label_init=levels",
                )
            if fraction in (0.0, 1.0):
                raise ConfigError(
                    "the prior of learned boundary fractions is out of range",
                    found=f"contrast_fraction={fraction:g}",
                    expected="between 0 and 1",
                )

    def _fill_in(self) -> None:
        """Give open fields the method's values; a wrong method is named by the check that follows."""
        if isinstance(self.method, str) and self.method in METHOD_PRESETS:
            for name, value in method_preset(self.method, self.hypergradient).items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)

    @property
    def over_outputs(self) -> Literal["mean", "sum"]:
        """How the losses of several heads are joined."""
        if self.deep_supervision != "auto":
            return self.deep_supervision
        return "sum" if DEEP_SUPERVISION.get(self.backbone) == "sum" else "mean"

    @property
    def evolve_interval(self) -> int:
        """Epochs between label evolutions: 5 as published, fewer in shorter runs."""
        return self.evolve_every or scaled_interval(self.method, self.epochs)

    @property
    def outer_interval(self) -> int:
        """Epochs between visits of the outer problem: 5 as published, fewer in shorter runs."""
        return self.outer_every or scaled_interval(self.method, self.epochs)

    @property
    def eval_interval(self) -> int:
        """Epochs between evaluations on the validation split."""
        return self.eval_every or max(1, self.epochs // 12)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration that `to_dict` wrote. Raises `ConfigError` on fields of another version."""
        if not isinstance(values, dict) or "data" not in values:
            raise ConfigError(
                "these are not the settings of a run",
                found=type(values).__name__,
                expected="an object with data",
            )
        known = {item.name for item in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                "the configuration has fields that this version does not know",
                found=", ".join(unknown),
                fix="use the version that wrote it, or start a new run",
            )
        # JSON knows lists, not tuples.
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)


def setting_choices(name: str) -> tuple[Any, ...]:
    """The values that a field may take, empty where it is open."""
    if name == "method":
        return tuple(METHOD_PRESETS)
    if name == "label_init":  # "learned" is of a run, not of an image: `learned_labels.py`
        return (*list_initializations(), "learned")
    return literal_choices(_HINTS[name])


def parse_setting(name: str, text: str) -> Any:
    """The value of a field as a person types it: numbers, true and false, none where allowed, text."""
    return parse(text, _HINTS[name])


_HINTS = typing.get_type_hints(TrainConfig)
