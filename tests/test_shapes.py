"""Generated pictures: what each attribute and each seed changes, and what it leaves alone."""

import time

import numpy as np
import pytest

from worker.data.shapes import (
    COLOURS,
    GROUNDS,
    SHAPES,
    TEXTURES,
    UPSTREAM_CLASSES,
    render,
    upstream,
)

ATTRIBUTES = (SHAPES, TEXTURES, COLOURS, GROUNDS)


def repeated(count: int, *values: int) -> list[np.ndarray]:
    """The same attributes for `count` pictures."""
    return [np.full(count, value) for value in values]


def draw(*attributes: np.ndarray, seed: int = 0, size: int = 32) -> np.ndarray:
    """Pictures as floats, to subtract them."""
    return render(*attributes, np.random.default_rng(seed), size=size).astype(float)


def test_pictures_are_bytes_of_the_asked_size() -> None:
    images = render(*repeated(3, 0, 0, 0, 0), np.random.default_rng(0), size=48)

    assert images.shape == (3, 48, 48, 3)
    assert images.dtype == np.uint8


def test_a_seed_decides_every_bit() -> None:
    images, labels = upstream(600, seed=7)
    again, labels_again = upstream(600, seed=7)
    other, labels_other = upstream(600, seed=8)

    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (labels != labels_other).any()
    assert (images != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(("axis", "names"), enumerate(ATTRIBUTES))
def test_every_value_of_every_attribute_looks_different(axis: int, names: tuple[str, ...]) -> None:
    drawn = []
    for value in range(len(names)):
        attributes = [1, 0, 0, 0]
        attributes[axis] = value
        drawn.append(draw(*repeated(20, *attributes)))

    # The nuisances are the same draw for all values, so that any difference is the attribute's.
    for first in range(len(names)):
        for second in range(first):
            assert np.abs(drawn[first] - drawn[second]).mean() > 2, (names[first], names[second])


def test_pictures_with_the_same_attributes_differ() -> None:
    images = draw(*repeated(50, 0, 1, 0, 0))

    assert len(np.unique(images.reshape(50, -1), axis=0)) == 50


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_shapes_are_seen_whole(shape: int) -> None:
    """Black on a lake: the shape covers a part of the picture, nearly none of it at the border."""
    black, lake = COLOURS.index("black"), GROUNDS.index("lake")
    dark = draw(*repeated(100, shape, 0, black, lake)).mean(axis=3) < 60
    border = np.ones((32, 32), dtype=bool)
    border[1:-1, 1:-1] = False

    assert 0.05 < dark.mean() < 0.7
    assert dark[:, border].mean() < 0.1


def test_upstream_labels_cover_all_classes_evenly() -> None:
    images, labels = upstream(4_000, seed=0)

    assert images.shape == (4_000, 32, 32, 3)
    assert labels.dtype == np.int64
    counts = np.bincount(labels, minlength=UPSTREAM_CLASSES)
    assert len(counts) == UPSTREAM_CLASSES
    assert counts.min() > 0.5 * counts.mean()


def test_drawing_is_fast() -> None:
    """20,000 pictures in 4 CPU seconds is what pretraining can afford; they take about 2."""
    started = time.process_time()
    upstream(2_000, seed=0)

    assert time.process_time() - started < 1.0
