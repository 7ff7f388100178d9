"""Both sides' networks and optimisers, from the same weights."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import Tensor

from istd.data import ImageSet
from istd.engine import TrainConfig
from istd.engine.batches import TrainBatch
from istd.engine.corpus import measure
from istd.engine.detector import Detector
from istd.engine.methods import SemanticPrior
from istd.models import (
    TeacherStudent,
    convert_reference_scam,
    convert_reference_state_dict,
    create_teacher_student,
    create_vfm,
)

from .images import load_images, normalised
from .reference import Reference, SharedVFM
from .timing import Job

NETWORKS = {"mlclnet": ("models.mlclnet", "MLCLNet"), "alclnet": ("models.alclnet", "ALCLNet")}
LR = 1e-3
QUIET = -4.0  # bias of the logits: like a trained network, it predicts next to nothing


class Sides:
    """What a measurement without networks needs.

    Attributes:
        images: what is trained on and evaluated.
        reference: the checkout's modules; None without one.
    """

    def __init__(self, job: Job) -> None:
        torch.manual_seed(job["seed"])
        self.job = job
        self.device = torch.device(job["device"])
        self.images: ImageSet = load_images(job).to(self.device)
        self.reference = Reference(job["reference"]) if job["reference"] else None


class Networks(Sides):
    """Both sides' networks too, and their batches.

    Attributes:
        detector: ours, with `model` inside.
        teacher, student: the reference's networks, of which the student is a part of the teacher.
        alpha: its cluster weights' parameters.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.mean, self.std = measure(self.images.to("cpu"))
        self.vfm = create_vfm(job["vfm"], seed=job["seed"]).to(self.device)
        model = create_teacher_student(job["backbone"], self.vfm, in_chans=3, mean=self.mean, std=self.std)
        for layer in model.student.final_layers():
            torch.nn.init.constant_(layer.bias, QUIET)  # type: ignore[arg-type]
        if self.reference is not None:
            self._make_reference()
            model.student.load_state_dict(convert_reference_state_dict(self.student.state_dict()))
            scam = convert_reference_scam(self.teacher.state_dict())
            scam["fusion"] = scam["fusion"][: self.vfm.num_layers]  # theirs has a map more: the embedding
            assert model.scam is not None
            model.scam.load_state_dict(scam)
        self.model: TeacherStudent = model.to(self.device)
        self.detector = Detector(self.model, self.vfm, {})  # puts it in the fast layout, as training does
        self.clusters = 4

    def _make_reference(self) -> None:
        assert self.reference is not None
        module, name = NETWORKS[self.job["backbone"]]
        self.student = getattr(self.reference.module(module), name)(in_channels=3)
        torch.nn.init.constant_(list(self.student.modules())[-1].bias, QUIET)
        self.teacher = self.reference.module("models.teacher").DINOCNNTeacher(
            dino_backbone=SharedVFM(self.vfm),
            base_model=self.student,
            stage_channels=list(self.student.stage_channels),
            hidden_dim=128,
            residual_gamma=True,
        )
        self.teacher.to(self.device)
        self.alpha = torch.nn.Parameter(torch.zeros(4, device=self.device))
        self.names = [f"image{number}" for number in range(len(self.images))]
        self.cluster_map = {f"{name}.png": number % 4 for number, name in enumerate(self.names)}

    def method(self, **changes: Any) -> SemanticPrior:
        """Our training method on a copy of the weights, with the reference's inner loss unless changed."""
        values: dict[str, Any] = {"data": "", "method": "semantic-prior", "backbone": self.job["backbone"]}
        values |= {"vfm": self.job["vfm"], "crop": self.job["crop"], "batch_size": self.job["batch"]}
        values |= {"loss": "bce", "lr": LR, "student_weight": 0.0, "seed": self.job["seed"], "outer_lr": LR}
        values |= {"hypergradient": "gauss-newton", "weight_decay": 0.01, **changes}
        return SemanticPrior(TrainConfig(**values), copy.deepcopy(self.model), self.clusters)

    def raw(self, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 1, n, n] in [0, 1], labels of the same shape, and their numbers, from `first` on."""
        count = self.job["batch"]
        numbers = torch.arange(first, first + count, device=self.device) % len(self.images)
        zero = torch.zeros_like(numbers)
        assert self.images.masks is not None
        image = self.images.images.crop(numbers, zero, zero, self.job["crop"]).float() / 255
        return image, self.images.masks.crop(numbers, zero, zero, self.job["crop"]).float(), numbers

    def batch(self, first: int = 0) -> TrainBatch:
        """A batch as our training makes one: the frozen maps are computed here."""
        image, label, numbers = self.raw(first)
        return TrainBatch(image, self.vfm(image), label, numbers % self.clusters)

    def theirs(self, first: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
        """The same batch as the reference's loader would give it (labels in single precision)."""
        image, label, numbers = self.raw(first)
        cnn, dino = normalised(image, self.mean, self.std)
        return cnn, label[:, 0], torch.zeros_like(label), dino, [self.names[n] for n in numbers.tolist()]

    def optimizer(self) -> torch.optim.Optimizer:
        """The reference's inner optimiser."""
        parameters = [*self.student.parameters(), *self.teacher.modulator.parameters()]
        return torch.optim.AdamW(parameters, lr=LR)


def threads(job: Job) -> None:
    """Let every library use as many threads as the job says."""
    import cv2

    count = job["threads"] or os.cpu_count() or 1
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
