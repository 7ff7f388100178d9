"""Cached hidden maps: bounds, keys, damage, and what crops get out of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from istd.data import Batch, CropLoader, SyntheticDataset, load_names, pack
from istd.engine import TrainConfig, load_corpus
from istd.engine.features import CachedFeatures, open_features
from istd.errors import ConfigError, ModelError
from istd.models import SCAM, FrozenVFM, VFMCache, create_vfm
from istd.ragged import RaggedImages

LARGE = 1 << 30


@pytest.fixture(scope="module")
def vfm() -> FrozenVFM:
    return create_vfm("random:test_vit", num_layers=2)


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, size, generator=generator, dtype=torch.uint8) for size in sizes]


def direct(vfm: FrozenVFM, pixels: torch.Tensor) -> torch.Tensor:
    return vfm(pixels.float()[None, None] / 255)[0].half()


def test_stored_and_computed_maps_are_the_same_bits(tmp_path: Path, vfm: FrozenVFM) -> None:
    pictures = images((40, 64), (16, 20))
    cache = VFMCache(tmp_path, vfm, LARGE, least=(32, 32))
    assert cache.fill(pictures).stored == 2
    large, small = pictures
    assert torch.equal(cache.window(large, cache.path(large), 0, 0, 3, 4), direct(vfm, large))
    padded = torch.zeros(32, 32, dtype=torch.uint8)
    padded[:16, :20] = small
    assert torch.equal(cache.window(small, cache.path(small), 0, 0, 2, 2), direct(vfm, padded))
    stored = cache.window(large, cache.path(large), 1, 2, 2, 2)
    cache.path(large).write_bytes(b"damaged")
    assert torch.equal(cache.window(large, cache.path(large), 1, 2, 2, 2), stored)
    assert not cache.path(large).exists()
    assert cache.fill(pictures).stored == 2


def test_the_limit_holds_and_what_does_not_fit_is_computed(tmp_path: Path, vfm: FrozenVFM) -> None:
    pictures = images((64, 64), (64, 80), (64, 96))
    one = 2 * 2 * vfm.embed_dim * 16 + (1 << 16)
    cache = VFMCache(tmp_path, vfm, limit=one + 1000, least=(32, 32))
    report = cache.fill(pictures)
    assert (report.stored, report.left_out) == (1, 2)
    assert report.bytes <= cache.limit
    assert cache.path(pictures[0]).exists()
    left_out = cache.window(pictures[2], cache.path(pictures[2]), 0, 0, 4, 6)
    assert torch.equal(left_out, direct(vfm, pictures[2]))


def test_another_model_another_key_and_the_oldest_make_room(tmp_path: Path, vfm: FrozenVFM) -> None:
    (picture,) = images((64, 64))
    others = [create_vfm("random:test_vit", num_layers=2, seed=seed) for seed in (1, 2)]
    caches = [VFMCache(tmp_path, model, LARGE, least=(16, 16)) for model in (*others, vfm)]
    assert len({cache.folder for cache in caches}) == 3
    assert VFMCache(tmp_path, create_vfm("random:test_vit"), LARGE, (16, 16)).folder != caches[2].folder
    assert VFMCache(tmp_path, vfm, LARGE, (80, 80)).path(picture) != caches[2].path(picture)
    for age, cache in enumerate(caches[:2]):
        cache.fill([picture])
        os.utime(cache.path(picture), (1000 + age, 1000 + age))
    size = caches[0].path(picture).stat().st_size
    tight = VFMCache(tmp_path, vfm, limit=2 * size + (1 << 16), least=(16, 16))
    assert tight.fill([picture]).stored == 1
    assert [cache.path(picture).exists() for cache in caches] == [False, True, True]
    assert [cache.folder.exists() for cache in caches] == [False, True, True]


def test_maps_of_datasets_no_longer_used_make_room_and_foreign_files_stay(
    tmp_path: Path, vfm: FrozenVFM
) -> None:
    old, kept, new = images((64, 64), (64, 80), (64, 96))
    VFMCache(tmp_path, vfm, LARGE, least=(16, 16)).fill([old, kept])
    foreign = [tmp_path / "mine" / "a.h5", tmp_path / "b.h5"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    cache = VFMCache(tmp_path, vfm, LARGE, least=(16, 16))
    os.utime(cache.path(kept), (1000, 1000))  # older than the others, but asked for
    there = sum(path.stat().st_size for path in tmp_path.rglob("*.h5"))
    cache.limit = there + 2 * 2 * vfm.embed_dim * 24 + (1 << 16) - 1000
    assert cache.fill([kept, new]).left_out == 0
    assert [cache.path(image).exists() for image in (old, kept, new)] == [False, True, True]
    assert all(path.exists() for path in foreign)


def test_maps_beyond_half_precision_are_named(tmp_path: Path) -> None:
    loud = create_vfm("random:test_vit", num_layers=1)
    with torch.no_grad():
        loud.model.norm.weight.fill_(1e6)
    with pytest.raises(ModelError, match="half precision"):
        VFMCache(tmp_path, loud, LARGE, (16, 16)).fill(images((32, 32)))


def test_crops_get_the_tokens_they_cover(tmp_path: Path, vfm: FrozenVFM) -> None:
    data = SyntheticDataset(num_train=3, num_val=1, num_test=1, size=(72, 88), seed=1)
    corpus = load_names(data, data.splits["train"])
    cache = VFMCache(tmp_path, vfm, LARGE, least=(48, 48))
    features = CachedFeatures(cache, corpus.images, crop=48)
    labels = corpus.masks
    assert labels is not None
    loader = CropLoader(corpus, labels, crop=48, batch_size=3, seed=0, align=16)
    seen = set()
    for step in range(12):
        batch = loader.batch(step, 0)
        maps = features(batch)
        assert maps.shape == (3, 2, vfm.embed_dim, 3, 3)
        for number, top, left, crop in zip(batch.index, batch.top, batch.left, maps, strict=True):
            whole = direct(vfm, corpus.images.image(int(number)))
            row, column = int(top) // 16, int(left) // 16
            assert torch.equal(crop, whole[:, :, row : row + 3, column : column + 3])
            seen.add((int(top), int(left)))
    assert {top for top, _ in seen} == {0, 16, 32}, "aligned, and the last rows can be reached"
    assert {left for _, left in seen} <= {0, 16, 32, 48}


def test_images_with_stored_maps_are_not_read_again(
    tmp_path: Path, vfm: FrozenVFM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may lie in a file, and a crop asks for one in every step."""
    (picture,) = images((64, 64))
    source = RaggedImages.from_arrays([picture.numpy()])
    cache = VFMCache(tmp_path, vfm, LARGE, least=(32, 32))
    cache.fill([picture])
    features = CachedFeatures(cache, source, crop=32)
    zero = torch.zeros(1, dtype=torch.int64)
    batch = Batch(zero, torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32), zero, zero + 16)
    monkeypatch.setattr(source, "image", lambda number: pytest.fail(f"image {number} was read"))
    assert torch.equal(features(batch)[0], direct(vfm, picture)[:, :, :2, 1:3])


def test_the_pooling_does_not_ask_where_a_token_is(vfm: FrozenVFM) -> None:
    """Why tokens need not be flipped and turned with their crop."""
    torch.manual_seed(0)
    scam = SCAM(vfm.embed_dim, 2, [4, 8], scale=0.5)
    maps = torch.randn(2, 2, vfm.embed_dim, 3, 3)
    for changed in (maps.flip(-1), maps.transpose(-1, -2), maps.rot90(1, (-2, -1))):
        for first, second in zip(scam(maps).betas, scam(changed).betas, strict=True):
            torch.testing.assert_close(first, second)


def test_crops_must_be_whole_patches(tmp_path: Path, vfm: FrozenVFM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data.h5"
    pack(SyntheticDataset(num_train=2, num_val=1, num_test=1, size=(40, 40), seed=1), path)
    config = TrainConfig(data=str(path), crop=40, vfm_cache="full-image")
    corpus = load_corpus(config, torch.device("cpu"))
    with pytest.raises(ConfigError, match="multiple of 16"):
        open_features(config, vfm, corpus)
    source = open_features(TrainConfig(data=str(path), crop=32, vfm_cache="full-image"), vfm, corpus)
    assert source.align == 16
    assert source.report is not None
    assert source.report.stored == 3
    assert list((tmp_path / "cache" / "vfm").rglob("*.h5"))
