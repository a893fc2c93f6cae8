"""Synthetic Gram fields: the same for the same seed, labelled truly, and not to be told apart by colour alone."""

from __future__ import annotations

import csv
from collections import defaultdict

import cv2
import numpy as np
import pytest
import yaml

from gramserve.samples import LABELS, ORGANISMS, Sample, encode, slide, write_image_folder, write_labels_yaml
from gramserve.store.manifest import Label


@pytest.mark.parametrize("label", LABELS)
def test_a_sample_is_the_same_for_the_same_seed_and_another_for_another(label):
    first, again, other = Sample(label, 1).render(), Sample(label, 1).render(), Sample(label, 2).render()
    assert first.shape == (160, 160, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_have_the_size_asked_for():
    assert Sample("GNR", 0, width=100, height=70).render().shape == (70, 100, 3)


@pytest.mark.parametrize("label", ORGANISMS)
def test_gram_positives_are_violet_and_gram_negatives_pink(label):
    violet = 0
    for seed in range(20):
        image = np.maximum(Sample(label, seed).render().astype(float), 1)
        absorbed = np.log(np.median(image.reshape(-1, 3), axis=0) / image[40:120, 40:120]).reshape(-1, 3)
        darkest = np.median(absorbed[np.argsort(absorbed.sum(axis=1))[-150:]], axis=0)
        assert darkest.sum() > 0.4
        # Crystal violet takes most of the red light, safranin hardly any.
        violet += darkest[0] > 0.45 * darkest[1]
    assert violet <= 1 if label == "GNR" else violet == 20


def test_colour_of_the_field_says_little_about_the_label():
    backdrops, labels = [], []
    for label in LABELS:
        for seed in range(30):
            image = Sample(label, seed, 96, 96).render()
            backdrops.append(np.median(image.reshape(-1, 3), axis=0))
            labels.append(label)
    points, names = np.array(backdrops), np.array(labels)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(len(points)) * 1e9
    guessed = names[distance.argmin(axis=1)]
    assert (guessed == names).mean() < 0.45  # chance is 0.2


def test_a_slide_is_several_fields_of_one_preparation():
    fields = slide(7, {"GNR", "GPC_CLUSTERS"}, fields=3, width=320, height=240)
    assert [field.shape for field in fields] == [(240, 320, 3)] * 3
    assert all(
        np.array_equal(a, b)
        for a, b in zip(fields, slide(7, ["GPC_CLUSTERS", "GNR"], fields=3, width=320, height=240), strict=True)
    )
    colours = [np.median(field.reshape(-1, 3), axis=0) for field in fields]
    assert np.abs(colours[0] - colours[1]).max() < 25
    assert not np.array_equal(fields[0], fields[1])


def test_a_slide_may_be_empty_but_holds_no_unknown_organism():
    assert len(slide(7, (), fields=2, width=200, height=200)) == 2
    with pytest.raises(ValueError, match="YEAST"):
        slide(7, {"YEAST"})
    with pytest.raises(ValueError, match="YEAST"):
        Sample("YEAST", 1).render()


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_an_image_folder_has_every_class_in_every_split_and_groups_that_cross_none(tmp_path, image_format):
    written = write_image_folder(
        tmp_path, {"train": 6, "val": 3, "test": 2}, tile_px=96, seed=3, image_format=image_format
    )
    assert written == 55
    with (tmp_path / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*/*")}
    splits, sizes = defaultdict(set), defaultdict(int)
    for row in rows:
        split, label, _ = row["path"].split("/")
        splits[row["group"]].add((split, label))
        sizes[row["group"]] += 1
        assert label in LABELS
    assert all(len(places) == 1 for places in splits.values())
    assert max(sizes.values()) > 1
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        assert [len(list((tmp_path / split / label).iterdir())) for label in LABELS] == [count] * 5
    image = cv2.imread(str(tmp_path / rows[0]["path"]))
    assert image.shape == (96, 96, 3)


def test_the_same_seed_writes_the_same_folder(tmp_path):
    for name in ("one", "two"):
        write_image_folder(tmp_path / name, {"train": 2}, tile_px=64, seed=1)
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("one", "two")
    )
    assert one == two
    write_image_folder(tmp_path / "three", {"train": 2}, tile_px=64, seed=2)
    assert (tmp_path / "three/train/GNR/00000.png").read_bytes() != one[
        next(p for p in one if p.name == "00000.png" and p.parent.name == "GNR")
    ]


def test_the_labels_file_gives_model_order_and_clinical_roles(tmp_path):
    write_labels_yaml(tmp_path / "labels.yaml")
    entries = yaml.safe_load((tmp_path / "labels.yaml").read_text())["labels"]
    assert [Label(**entry).name for entry in entries] == list(LABELS) == sorted(LABELS)
    assert entries[0] == {"name": "BACKGROUND", "kind": "background"}
    assert entries[1] == {"name": "GNR", "kind": "organism", "gram": "negative", "morphology": "bacilli"}


def test_encoded_png_and_tiff_keep_every_pixel():
    image = Sample("GPR", 1, 64, 64).render()
    for image_format in ("png", "tif"):
        back = cv2.imdecode(np.frombuffer(encode(image, image_format), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(back, image)
