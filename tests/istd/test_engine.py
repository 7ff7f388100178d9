"""The parts of the engine: data in memory, logs, seeds, selection, evaluation."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from istd.data import ImageSet, SyntheticDataset, load_names, pack
from istd.engine import (
    RunFolder,
    TrainConfig,
    cluster_images,
    evaluate,
    label_state,
    label_watch,
    load_corpus,
    pack_cache,
    packed,
    read_lines,
)
from istd.engine.batches import open_stream
from istd.engine.corpus import measure
from istd.engine.features import live_features
from istd.engine.label_state import label_quality, start_labels, update_labels
from istd.engine.position import Position
from istd.engine.run_folder import JsonLines
from istd.engine.seeding import derive_seed, seed_torch
from istd.engine.selection import selection_images, selection_rule
from istd.errors import CheckpointError, ConfigError, DataError
from istd.labels import ContrastSettings, LevelsSettings
from istd.metrics import MetricConvention
from istd.ragged import RaggedImages

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))


def write_folder(root, count=10, size=40):
    """A small dataset in the layout of SIRST v1."""
    dataset = SyntheticDataset(num_train=count, num_val=1, num_test=1, size=(size, size), seed=1)
    for folder in ("images", "masks", "idx_427"):
        (root / folder).mkdir(parents=True)
    names = dataset.splits["train"]
    for name in names:
        record = dataset.read(name)
        cv2.imwrite(str(root / "images" / f"{name}.png"), record.image)
        cv2.imwrite(str(root / "masks" / f"{name}_pixels0.png"), record.mask.astype(np.uint8) * 255)
    for split, part in {"train": names[:6], "val": names[6:8], "test": names[8:]}.items():
        (root / "idx_427" / f"{split}.txt").write_text("\n".join(part))
    return root


def test_a_folder_is_packed_once_and_again_when_it_changes(tmp_path):
    root = write_folder(tmp_path / "data")
    first = packed(root)
    files = list((tmp_path / "cache").glob("*.h5"))
    assert len(files) == 1
    made = files[0].stat().st_ino
    assert packed(root).splits == first.splits
    assert files[0].stat().st_ino == made

    name = first.splits["train"][0]
    changed = first.read(name).image
    changed = 255 - changed
    cv2.imwrite(str(root / "images" / f"{name}.png"), changed)
    assert np.array_equal(packed(root).read(name).image, changed)
    assert len(list((tmp_path / "cache").glob("*.h5"))) == 1, "the new file replaces the old one"


def test_packed_folders_are_bounded_and_others_files_stay(tmp_path, monkeypatch):
    roots = [write_folder(tmp_path / name / "data", size=32) for name in "abc"]
    cache = tmp_path / "cache"
    cache.mkdir()
    foreign = [cache / "mine.h5", cache / "data-1.h5"]
    for path in foreign:
        path.write_bytes(bytes(100))
    files = [Path(packed(root).root) for root in roots[:2]]
    size = files[0].stat().st_size
    os.utime(files[1], (1000, 1000))
    packed(roots[1])  # used now: the other one is older
    os.utime(files[0], (2000, 2000))
    monkeypatch.setattr(pack_cache, "MAX_BYTES", int(2.5 * size))
    third = Path(packed(roots[2]).root)
    assert [path.exists() for path in (*files, third)] == [False, True, True]
    assert all(path.exists() for path in foreign)


def test_the_cache_ignores_other_files_and_mends_itself(tmp_path):
    root = write_folder(tmp_path / "data")
    packed(root)
    (root / "runs").mkdir()
    (root / "runs" / "log.jsonl").write_text("{}")
    packed(root)
    files = list((tmp_path / "cache").glob("*.h5"))
    assert len(files) == 1
    files[0].write_bytes(files[0].read_bytes()[:500])
    assert len(packed(root).names) == 10


def test_the_corpus_holds_train_and_val_but_not_test(tmp_path):
    root = write_folder(tmp_path / "data")
    corpus = load_corpus(TrainConfig(data=str(root)), CPU)
    assert len(corpus.train) == 6
    assert len(corpus.val) == 2
    held = {*corpus.train.names, *corpus.val.names}
    assert held.isdisjoint(corpus.dataset.splits["test"])
    images = [corpus.train.images.image(i).numpy() / 255.0 for i in range(6)]
    assert corpus.mean == pytest.approx(np.mean([image.mean() for image in images]))
    assert corpus.std == pytest.approx(np.mean([image.std() for image in images]))


def test_what_images_are_normalised_by_does_not_depend_on_the_threads():
    """A run must go on where there are more or fewer of them: it compares these numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 260, 300), np.uint8)
    images = ImageSet(("a", "b", "c"), RaggedImages.from_arrays(list(pixels)), None, (np.empty((0, 2)),) * 3)
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.add(measure(images))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
    shares = pixels / 255.0
    assert found.pop() == pytest.approx((shares.mean(), shares.std(axis=(1, 2)).mean()), rel=1e-12)


def test_without_a_val_split_the_same_training_images_are_held_out_for_every_seed(tmp_path):
    path = tmp_path / "synthetic.h5"
    pack(SyntheticDataset(num_train=10, num_val=0, num_test=2, size=(40, 40), seed=1), path)
    first = load_corpus(TrainConfig(data=str(path), seed=0), CPU)
    again = load_corpus(TrainConfig(data=str(path), seed=1), CPU)
    other = load_corpus(TrainConfig(data=str(path), val_seed=1), CPU)
    assert len(first.val) == 2
    assert set(first.train.names).isdisjoint(first.val.names)
    assert first.dataset.splits["test"] == packed(path).splits["test"]
    assert (first.val.names, first.split_hash) == (again.val.names, again.split_hash)
    assert first.val.names != other.val.names
    assert first.split_hash != other.split_hash != packed(path).split_hash()


def test_training_images_without_a_single_point_are_refused(tmp_path):
    root = write_folder(tmp_path / "data")
    for name in (root / "idx_427" / "train.txt").read_text().split():
        cv2.imwrite(str(root / "masks" / f"{name}_pixels0.png"), np.zeros((40, 40), np.uint8))
    with pytest.raises(DataError, match="no training image has a point"):
        load_corpus(TrainConfig(data=str(root)), CPU)


def test_the_contrast_fraction_reaches_the_labels(tmp_path):
    config = TrainConfig(data=str(write_folder(tmp_path / "data")))
    corpus = load_corpus(config, CPU)
    sizes = {}
    for fraction in (0.1, 0.3, 0.7):
        chosen = replace(config, label_init="contrast", contrast_fraction=fraction)
        state = start_labels(tmp_path / f"{fraction}.h5", corpus, chosen, CPU)
        assert state.store.settings["label_settings"] == asdict(ContrastSettings(fraction=fraction))
        sizes[fraction] = float(sum(state.train.image(number).sum() for number in range(len(state.train))))
    assert sizes[0.1] > sizes[0.3] > sizes[0.7] > 0


def test_labels_start_soft_but_for_a_loss_that_counts_exact_ones(tmp_path):
    config = TrainConfig(data=str(write_folder(tmp_path / "data")))
    corpus = load_corpus(config, CPU)
    soft = start_labels(tmp_path / "soft.h5", corpus, config, CPU)
    assert soft.store.settings["label_init"] == "levels"
    assert soft.store.settings["label_settings"] == asdict(LevelsSettings())
    hard = start_labels(tmp_path / "hard.h5", corpus, replace(config, loss="focal"), CPU)
    assert hard.store.settings["label_settings"] == asdict(LevelsSettings(soft=False))
    values = [torch.stack([state.train.image(number) for number in range(6)]) for state in (hard, soft)]
    assert set(values[0].unique().tolist()) == {0.0, 1.0}
    assert len(values[1].unique()) > 2


def test_clusters_see_training_images_only_and_repeat(tmp_path):
    corpus = load_corpus(TrainConfig(data=str(write_folder(tmp_path / "data"))), CPU)
    first = cluster_images(corpus.train, 3, seed=5)
    again = cluster_images(corpus.train, 3, seed=5)
    assert first.assignment.shape == (6,)
    assert np.array_equal(first.assignment, again.assignment)


def test_lesps_keeps_its_labels_exact_under_augmentation(tmp_path):
    """Its loss is divided by the number of pixels whose label is exactly 1."""
    config = TrainConfig(data=str(write_folder(tmp_path / "data")), method="lesps", crop=40, batch_size=6)
    corpus = load_corpus(config, CPU)
    state = start_labels(tmp_path / "labels.h5", corpus, config, CPU)
    clusters = torch.zeros(len(corpus.train), dtype=torch.int64)
    exact = {}
    for warp in (False, True):
        chosen = replace(config, augment_warp=warp)
        stream = open_stream("train", chosen, corpus.train, state.train, None, clusters, live_features(None))
        labels = torch.cat([stream.batch(step).label for step in range(5)])
        exact[warp] = set(labels.unique().tolist()) == {0.0, 1.0}
    assert exact == {False: True, True: False}
    assert not config.augment_warp


def test_labels_are_measured_again_only_when_they_have_changed(tmp_path, monkeypatch):
    config = TrainConfig(data=str(write_folder(tmp_path / "data")), method="pal")
    corpus = load_corpus(config, CPU)
    state = start_labels(tmp_path / "labels.h5", corpus, config, CPU)
    measured = []

    def counted(*arguments):
        measured.append(1)
        return label_quality(*arguments)

    monkeypatch.setattr(label_watch, "label_quality", counted)
    watch = label_watch.LabelWatch(corpus)
    assert watch.record(None) == {}
    first = watch.record(state)
    assert watch.record(state) == first
    assert len(measured) == 2, "once for each split"
    assert first["label_iou_train"] == label_quality(state.train, corpus.train, state.pool_indices)
    update_labels(state, corpus, config, 70, lambda image: image * 0 - 20.0)
    watch.record(state)
    assert len(measured) == 4


def joined(labels):
    return torch.cat([labels.image(number).double().flatten() for number in range(len(labels))])


def test_labels_follow_predictions_down_where_asked(tmp_path, monkeypatch):
    config = TrainConfig(data=str(write_folder(tmp_path / "data")))
    corpus = load_corpus(config, CPU)
    monkeypatch.setattr(label_state, "evolve_both_ways", lambda pred, label, points, settings: label * 0.25)
    for fall, left in (("decay", 0.97), ("follow", 0.25)):
        state = start_labels(tmp_path / f"{fall}.h5", corpus, config, CPU)
        first = joined(state.train)
        update_labels(state, corpus, replace(config, label_fall=fall), 70, lambda image: image * 0 - 20.0)
        soft = first < 1  # of the others some are points, which are locked
        assert torch.allclose(joined(state.train)[soft], left * first[soft], atol=1e-6)


@pytest.mark.parametrize(("rule", "mined"), [("bounded", 0), ("reference", 1)])
def test_the_rule_of_mining_can_be_chosen(tmp_path, rule, mined):
    """At the end of mining the public code admits an image even where nothing is predicted."""
    config = TrainConfig(data=str(write_folder(tmp_path / "data")), method="pal", epochs=100, mining=rule)
    corpus = load_corpus(config, CPU)
    state = start_labels(tmp_path / "labels.h5", corpus, config, CPU)
    state.pool[0] = False
    assert len(corpus.train.points[0])
    changed = update_labels(state, corpus, config, 79, lambda image: image * 0 - 20.0)
    assert changed["mined"] == mined
    assert state.pool[0] == bool(mined)


def test_saturated_labels_are_kept_as_eight_bits_keep_them(tmp_path):
    config = TrainConfig(data=str(write_folder(tmp_path / "data")), method="pal", lock="saturated")
    corpus = load_corpus(config, CPU)
    state = start_labels(tmp_path / "labels.h5", corpus, config, CPU)
    first = [state.train.image(number).clone() for number in state.pool_indices]
    # A sure prediction everywhere lifts labels to 255 of 255; an empty one then leaves those alone.
    for epoch, logit in enumerate((9.0,) * 10 + (-20.0,) * 10):
        update_labels(state, corpus, config, 70 + epoch, lambda image, logit=logit: image * 0 + logit)
    for number, before in zip(state.pool_indices, first, strict=True):
        after = state.train.image(number)
        assert torch.equal(after, torch.round(after * 255) / 255)
        assert int((after == 1).sum()) >= int((before == 1).sum())


def test_seeds_depend_on_the_place_and_nothing_else():
    places = [derive_seed(0, "step", 1, 2), derive_seed(0, "step", 12), derive_seed(1, "step", 1, 2)]
    assert len(set(places)) == 3
    assert derive_seed(0, "step", 1, 2) == places[0]
    seed_torch(3, "a")
    first = torch.rand(3)
    torch.rand(5)
    seed_torch(3, "a")
    assert torch.equal(torch.rand(3), first)


def test_selection_never_needs_what_is_not_there(tmp_path):
    corpus = load_corpus(TrainConfig(data=str(write_folder(tmp_path / "data"))), CPU)
    blind = replace(corpus, val=replace(corpus.val, masks=None))
    config = TrainConfig(data="x", method="pal")
    assert selection_rule(config, corpus) == "val-masks"
    assert selection_rule(config, blind) == "val-labels"
    assert selection_rule(replace(config, method="full"), blind) == "last"
    assert selection_rule(replace(config, selection="last"), corpus) == "last"
    with pytest.raises(ConfigError, match="val-masks"):
        selection_rule(replace(config, selection="val-masks"), blind)
    with pytest.raises(ConfigError, match="val-labels"):
        selection_rule(replace(config, method="full", selection="val-labels"), corpus)


def test_a_log_is_cut_back_and_survives_a_torn_last_line(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for epoch in range(4):
        log.append({"epoch": epoch, "loss": 1 / 3})
    with log.path.open("a") as stream:
        stream.write('{"epoch": 4, "lo')
    assert [line["epoch"] for line in read_lines(log.path)] == [0, 1, 2, 3]
    again = JsonLines(log.path)
    again.cut(2)
    again.append({"epoch": 9})
    assert [line["epoch"] for line in read_lines(log.path)] == [0, 1, 9]
    assert next(read_lines(log.path))["loss"] == 1 / 3


def test_a_damaged_run_configuration_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.config.write_text('{"data": "x", ')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        folder.read_config()


def test_a_perfect_detector_scores_perfectly(tmp_path):
    corpus = load_corpus(TrainConfig(data=str(write_folder(tmp_path / "data"))), CPU)
    images = load_names(corpus.dataset, corpus.train.names)
    masks = iter([images.masks.image(i) for i in range(len(images))])
    scores, rows = evaluate(
        lambda image: (next(masks).float()[None, None] - 0.5) * 20, images, MetricConvention()
    )
    assert scores["iou"] == scores["pd"] == scores["f1"] == 1.0
    assert scores["fa"] == 0.0
    assert [row["name"] for row in rows] == list(images.names)
    with pytest.raises(DataError, match="mask"):
        evaluate(lambda image: image, replace(images, masks=None), MetricConvention())


def test_a_fresh_position_is_json():
    assert json.loads(json.dumps(vars(Position())))["epoch"] == 0


def test_val_labels_are_scored_against_the_first_labels(tmp_path):
    config = TrainConfig(data=str(write_folder(tmp_path / "data")))
    corpus = load_corpus(config, CPU)
    state = start_labels(tmp_path / "labels.h5", corpus, config, CPU)
    name, first = corpus.val.names[0], state.store.label(corpus.val.names[0])
    state.store.commit(epoch=1, changes={name: np.zeros_like(first)})
    chosen = selection_images("val-labels", corpus, state)
    assert chosen.masks is not None
    assert np.array_equal(chosen.masks.image(0).numpy() > 0, first > 0.5)
    assert first.max() == 1.0
    assert selection_images("val-masks", corpus, state) is corpus.val
