"""The training loop: one for all methods, resumable at any step, repeatable bit for bit."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from .._provenance import code_version
from ..errors import CheckpointError, ConfigError
from ..metrics import MetricConvention
from ..models._joint_norm import join_norms
from ..ragged import ImageSource
from .averaging import WeightAverage
from .batches import Stream, open_stream
from .config import TrainConfig
from .corpus import Corpus, assign_all, check_supervision, distractors, load_corpus
from .detector import Detector, build_model, build_vfm, make_header, to_fast_layout
from .features import open_features
from .label_state import LabelState, describe_trusted, resume_labels, start_labels, update_labels
from .label_watch import LabelWatch
from .methods import Method, method_class
from .position import Position
from .process_group import launched, open_ranks, rank_device
from .progress import Bars, epoch_line
from .results import TrainedRun, finish_run
from .run_folder import JsonLines, RunFolder
from .run_state import (
    check_config,
    check_identity,
    fitting,
    last_run_state,
    load_run_state,
    save_run_state,
)
from .runtime import autocast, deterministic, weight_dtype
from .schedule import evolves, learning_rate, may_evolve
from .seeding import seed_torch
from .selection import selection_images, selection_rule, validate
from .step_losses import StepLosses
from .stopping import StopRequest


class Trainer:
    """Trains one detector into a run folder.

    Args:
        config: what to train. With `resume`, the configuration in the folder counts and this may be None.
        out: the run folder.
        resume: go on with the run that lies there.
        console: where to print; the terminal by default.
        command: what makes such a run again, for its results; by default `istd train` with its settings.

    Raises:
        CheckpointError: the folder is in use, holds a run already, or (with `resume`) holds none.
        ConfigError, DataError, ModelError: what is asked for cannot be done.
    """

    def __init__(
        self,
        config: TrainConfig | None,
        out: str | Path,
        *,
        resume: bool = False,
        console: Console | None = None,
        command: str | None = None,
    ) -> None:
        self.folder = RunFolder(out)
        self.command = command
        self.console = Console(quiet=True) if launched()[0] else console or Console()
        if config is None and not resume:
            raise ConfigError("a new run needs a configuration")
        self.resume = resume
        self.config = self.folder.read_config() if resume or config is None else config
        self.convention = MetricConvention()
        self.position = Position()
        self.stop = StopRequest(self.console)
        self._saved_at = time.monotonic()

    def fit(self) -> dict[str, Any]:
        """Train to the end; the results, as written to `results.json`.

        Ctrl-C (or SIGTERM) ends the current training step, writes a checkpoint and raises
        `KeyboardInterrupt`; between steps, while labels evolve or a split is evaluated, it stops at once. A
        run ended in any way goes on from its last checkpoint, and ends with the very weights and labels that
        it would have had.

        Under torchrun its processes share the work (`ranks.py`), with the result of one. All of them come
        here; the first one alone writes.

        Raises:
            ProcessError: another process has ended, or does not answer.
        """
        self.device = rank_device(self.config.device)
        with open_ranks(self.device, self.config.process_timeout) as self.ranks:
            self.ranks.on_first(self.folder.acquire)
            try:
                if not self.resume:
                    self.ranks.on_first(self.folder.check_free)
                with deterministic(), self.stop:
                    return self._fit()
            except KeyboardInterrupt:
                if self.ranks.is_first:  # the others may be somewhere else
                    self._say_where()
                raise
            finally:
                self.folder.release()

    def _say_where(self) -> None:
        if self.folder.checkpoint.exists():
            saved = load_run_state(self.folder.checkpoint)["position"]
            where = f"epoch {saved['epoch'] + 1}, step {saved['step']}"
            self.console.print(f"[yellow]stopped; saved at {where}. --resume goes on from there.[/yellow]")

    # -- setting up -------------------------------------------------------------------------------------

    def _fit(self) -> dict[str, Any]:
        started = time.monotonic()
        code_version()  # noted in the results: as it is now, whatever happens to the files during the run
        with Bars(self.console, "setting up", 1, should_stop=self.stop) as bars:
            self._set_up(bars)
            self._begin(bars)
        self.selection_images = selection_images(self.selection, self.corpus, self.labels)
        before = self.position.seconds
        self.losses = StepLosses(self.position)
        self.log = JsonLines(self.folder.log)
        self.ranks.on_first(self.log.cut, self.position.log_lines, self._note)
        done = self.position.epoch * self.steps_per_epoch() + self.position.step
        total = self.config.epochs * self.steps_per_epoch()
        with Bars(self.console, "training", total, done, self.stop) as bars:
            while self.position.epoch < self.config.epochs:
                self._epoch(bars, before - started)
        return finish_run(
            TrainedRun(
                config=self.config,
                folder=self.folder,
                corpus=self.corpus,
                detector=self.detector,
                labels=self.labels,
                vfm=self.vfm,
                vfm_fingerprint=self.vfm_fingerprint,
                position=self.position,
                selection=self.selection,
                convention=self.convention,
                device=self.device,
                console=self.console,
                stop=self.stop,
                ranks=self.ranks,
                command=self.command,
            )
        )

    def _set_up(self, bars: Bars) -> None:
        config = self.config
        self.ranks.part_of(config.batch_size)  # refused now, not in the first step
        self.corpus: Corpus = load_corpus(config, self.device, bars, self.ranks)
        check_supervision(config, self.corpus, method_class(config.method).supervision)
        self.data_hash = self.corpus.dataset.content_hash()
        self.selection = selection_rule(config, self.corpus)
        self.vfm = build_vfm(config, self.device)
        seed_torch(config.seed, "model")
        model = build_model(config, self.vfm, self.corpus.mean, self.corpus.std)
        model = to_fast_layout(model.to(self.device, weight_dtype(config.precision)))
        if self.ranks.size > 1:
            join_norms(model)
        self.features = open_features(config, self.vfm, self.corpus, bars, self.ranks)
        if self.features.report is not None:
            self.console.print(f"[dim]{self.features.report.sentence()}[/dim]")
        wanted = method_class(config.method).uses_clusters
        self.clusters, count = assign_all(config, self.corpus, self.device, wanted, bars, self.ranks)
        self.method = self._method(model, count)
        self.watch = LabelWatch(self.corpus, self.ranks)
        self.distractors = distractors(config, self.corpus, bars, self.ranks)
        self.vfm_fingerprint = None if self.vfm is None else self.vfm.fingerprint
        header = make_header(config, self.vfm, self.corpus.mean, self.corpus.std, self.corpus.split_hash)
        self.average = WeightAverage(model, config.ema) if config.ema else None
        self.detector = Detector(self.average.model if self.average else model, self.vfm, header)

    def _begin(self, bars: Bars) -> None:
        """Go on from the checkpoint, or make the first labels. The folder is written to from here on."""
        if not self.resume:
            self.ranks.on_first(self.folder.start, self.config)
        state = self._saved_state()
        self.labels: LabelState | None = None
        if state is not None:
            with fitting(self.folder.checkpoint):
                self._restore(state)
        elif self.method.supervision == "points":
            self.labels = start_labels(
                self.folder.labels, self.corpus, self.config, self.device, bars, self.ranks
            )
            self.position.label_version = self.labels.store.latest
        if self.labels is not None and self.labels.trusted:
            self.console.print(describe_trusted(self.labels, self.corpus))

    def _method(self, model: torch.nn.Module, num_clusters: int) -> Method:
        return method_class(self.config.method).build(self.config, model, num_clusters)

    # -- training ---------------------------------------------------------------------------------------

    def steps_per_epoch(self) -> int:
        """Steps of one epoch: by all training images, so that a growing pool does not change the budget."""
        return max(1, len(self.corpus.train.names) // self.config.batch_size)

    def _epoch(self, bars: Bars, offset: float) -> None:
        config, position = self.config, self.position
        began = time.monotonic()
        epoch = position.epoch
        record: dict[str, Any] = {"event": "epoch", "epoch": epoch}
        if position.step == 0 and self.labels is not None and evolves(config, epoch, position.evolving_since):
            position.noted = self._evolve(bars)
        record.update(position.noted)
        stream = self._stream("train", "train", self._train_labels(), self._pool())
        count = self.steps_per_epoch()
        for step in range(position.step, count):
            seed_torch(config.seed, "step", epoch, step)
            self.method.set_lr(learning_rate(config, epoch + step / count))
            batch = stream.batch(epoch * count + step)
            with autocast(config.precision, self.device), self.ranks.sharing():
                loss = self.method.train_step(batch)
            self.losses.add(self.ranks.mean(loss))
            if self.average is not None:
                self.average.update()
            position.step = step + 1
            bars.advance(f"epoch {epoch + 1}/{config.epochs}  loss {self.losses.latest():.4f}")
            position.seconds = time.monotonic() + offset
            due = self.ranks.is_first and time.monotonic() - self._saved_at > config.checkpoint_seconds
            if self.ranks.any(due or self.stop()):
                self._save()
        self.losses.read()
        record["loss"] = math.fsum(position.losses) / len(position.losses)
        record["lr"] = learning_rate(config, epoch)
        if self.method.has_outer_problem and epoch % config.outer_interval == 0:
            record.update(self._visit_outer(bars))
        record.update(self.method.report())
        record.update(self.watch.record(self.labels))
        if (epoch + 1) % config.eval_interval == 0 or epoch + 1 == config.epochs:
            with autocast(config.precision, self.device):
                record.update(self._evaluate(bars))
        record["seconds"] = round(time.monotonic() - began, 3)
        self._finish_epoch(record, offset)

    def _finish_epoch(self, record: dict[str, Any], offset: float) -> None:
        position = self.position
        self.ranks.on_first(self.log.append, record)
        if position.evolving_since < 0 and may_evolve(self.config, record["loss"]):
            position.evolving_since = position.epoch + 1
        position.epoch, position.step = position.epoch + 1, 0
        position.losses, position.noted = [], {}
        position.log_lines = self.log.count
        position.seconds = time.monotonic() + offset
        self._save()
        against = "first labels" if self.selection == "val-labels" else "masks"
        self.console.print(epoch_line(record, self.config.epochs, against))

    def _visit_outer(self, bars: Bars) -> dict[str, float]:
        config, first = self.config, self.position.epoch * self.config.outer_steps
        assert self.labels is not None
        train = self._stream("outer-train", "train", self.labels.train, self._pool())
        val = self._stream("outer-val", "val", self.labels.val, None)
        infos = []
        for step in range(config.outer_steps):
            seed_torch(config.seed, "outer", self.position.epoch, step)
            held_out = val.batch(first + step)
            with self.ranks.sharing():
                infos.append(self.method.outer_step(train.batch(first + step), held_out))
            bars("outer steps", step + 1, config.outer_steps)
        return {key: math.fsum(info[key] for info in infos) / len(infos) for key in infos[0]}

    def _evolve(self, bars: Bars) -> dict[str, float]:
        assert self.labels is not None
        changed = update_labels(
            self.labels,
            self.corpus,
            self.config,
            self.position.epoch,
            self._label_logits,
            bars,
            self.ranks,
            # Selection reads their first version; nothing else looks at them.
            with_val=self.method.has_outer_problem or self.watch.reads_val,
        )
        self.position.label_version = self.labels.store.latest
        return changed

    def _label_logits(self, image: torch.Tensor) -> torch.Tensor:
        with autocast(self.config.precision, self.device):
            return self.detector.logits(image, self.method.labeller)

    def _evaluate(self, bars: Bars) -> dict[str, float]:
        """Validate, and keep the weights if the student, which is what is deployed, is better than before."""
        position = self.position
        values: dict[str, float] = {}
        if self.selection == "last":
            score = float(position.epoch)
        else:
            values = validate(self.detector, self.selection_images, self.convention, bars, self.ranks)
            score = values["val_student_iou"]
        # A score of 0 tells nothing: of several the last counts, whose network has learned longest.
        if score > position.best_score or score == position.best_score == 0.0:
            position.best_score, position.best_epoch = score, position.epoch
            self.ranks.on_first(self.detector.save_student, self.folder.student)
            if self.detector.has_teacher:
                self.ranks.on_first(self.detector.save_teacher, self.folder.teacher)
        return values

    # -- pieces -----------------------------------------------------------------------------------------

    def _train_labels(self) -> ImageSource:
        if self.labels is not None:
            return self.labels.train
        assert self.corpus.train.masks is not None
        return self.corpus.train.masks

    def _pool(self) -> list[int] | None:
        return None if self.labels is None else self.labels.pool_indices

    def _stream(self, name: str, split: str, labels: ImageSource, pool: list[int] | None) -> Stream:
        source, training = self.features, split == "train"
        return open_stream(
            name,
            self.config,
            self.corpus.train if training else self.corpus.val,
            labels,
            pool,
            self.clusters[split],
            source.train if training else source.val,
            source.align,
            self.distractors[split],
            self.ranks,
        )

    # -- checkpoints ------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.losses.read()  # what came of a loss that is not finite is never kept
        self.ranks.check_same(self.method.model)
        self.ranks.on_first(self._write_state)
        self._saved_at = time.monotonic()
        if self.ranks.any(self.stop()):
            raise KeyboardInterrupt

    def _write_state(self) -> None:
        state = {
            "position": vars(self.position),
            "method": self.method.state_dict(),
            "identity": self._identity(),
            "config": self.config.to_dict(),
            "clusters": self.clusters,
            "average": None if self.average is None else self.average.state_dict(),
        }
        save_run_state(self.folder.checkpoint, state)

    def _saved_state(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; only the first process may put one in another's place."""
        path, first = self.folder.checkpoint, self.ranks.is_first
        state = last_run_state(path, self._note) if self.resume and first else None
        if not self.ranks.any(state is not None):
            return None
        return state if first else load_run_state(path)

    def _note(self, text: str) -> None:
        self.console.print(f"[yellow]note[/yellow] {escape(text)}")

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must find as it was."""
        return {
            "data_hash": self.data_hash,
            "split_hash": self.corpus.split_hash,
            "mean": self.corpus.mean,
            "std": self.corpus.std,
            "vfm": self.vfm_fingerprint,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        check_config(state.get("config"), self.config.to_dict(), self.folder.config)
        check_identity(state["identity"], self._identity(), self.folder.root)
        # Kept, not fitted again: another version of a library may number the same clusters otherwise.
        self.clusters = {name: part.to(self.device) for name, part in state["clusters"].items()}
        self.position = Position(**state["position"])
        self.method.load_state_dict(state["method"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.method.supervision == "points":
            if not self.folder.labels.exists():
                raise CheckpointError(
                    "the label store of this run is gone",
                    where=self.folder.labels,
                    fix="put it back, or start a new run",
                )
            self.labels = resume_labels(
                self.folder.labels, self.position.label_version, self.corpus, self.device, self.ranks
            )
