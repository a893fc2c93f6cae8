from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from optimizer_svc.architecture import InputSpec, build_model, classifier_names
from optimizer_svc.augment import augment, symmetries, view
from optimizer_svc.batches import Batch
from optimizer_svc.losses import class_weights, distillation_loss, label_loss
from optimizer_svc.spec import Stopped
from optimizer_svc.teacher import Teacher, adapted
from optimizer_svc.tiles import TileSet
from optimizer_svc.train import Epoch, TrainPlan, is_narrow, predict, reestimate_batch_norm, score, train

SPEC = InputSpec(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def coloured(count: int, seed: int = 0) -> TileSet:
    """Two classes that a small network tells apart: violet and pink."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    base = np.array([[110, 40, 150], [230, 90, 130]])[targets][:, None, None, :]
    noise = random.integers(-30, 30, (count, 32, 32, 3))
    return TileSet(np.clip(base + noise, 0, 255).astype(np.uint8), targets.astype(np.int64))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("test_resnet", 2, 32)


LOSS = label_loss(torch.ones(2))


def test_the_same_seed_gives_the_same_weights() -> None:
    models = [network(), network()]
    for model in models:
        train(model, coloured(24), coloured(8, 1), SPEC, TrainPlan(2, 1e-3, batch=8, seed=3), LOSS)
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_learns_and_leaves_the_weights_of_its_best_epoch() -> None:
    model, val = network(), coloured(16, 1)
    history = train(model, coloured(48), val, SPEC, TrainPlan(4, 3e-3, batch=8), LOSS)
    best = max(history, key=lambda epoch: epoch.rank)
    assert score(predict(model, val.tiles, SPEC), val.targets) == pytest.approx((best.val_accuracy, best.val_loss))
    assert best.val_accuracy == 1.0
    assert not model.training


def test_a_last_batch_of_one_tile_does_not_break_batch_norm() -> None:
    history = train(network(), coloured(9), coloured(4, 1), SPEC, TrainPlan(1, 1e-3, batch=8), LOSS)
    assert np.isfinite(history[0].train_loss)


def test_a_frozen_backbone_keeps_its_weights_and_statistics() -> None:
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    head = classifier_names(model)
    train(model, coloured(16), coloured(4, 1), SPEC, TrainPlan(1, 1e-2, batch=8, frozen=head), LOSS)
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert all(p.requires_grad for p in model.parameters())


def test_training_ends_early_when_val_no_longer_improves() -> None:
    plan = TrainPlan(30, 0.0, batch=8, patience=2)
    history = train(network(), coloured(8), coloured(4, 1), SPEC, plan, LOSS)
    assert len(history) < 30


def test_training_ends_before_its_deadline_but_not_before_one_epoch() -> None:
    ticks = iter(range(1000))
    history = train(
        network(),
        coloured(8),
        coloured(4, 1),
        SPEC,
        TrainPlan(50, 1e-3, batch=8),
        LOSS,
        clock=lambda: float(next(ticks)),
        deadline=10.0,
    )
    assert 1 <= len(history) < 10
    late = train(network(), coloured(8), coloured(4, 1), SPEC, TrainPlan(5, 1e-3, batch=8), LOSS, deadline=0.0)
    assert len(late) == 1


def test_only_networks_with_very_few_channels_are_narrow() -> None:
    assert not is_narrow(network())
    assert is_narrow(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)))
    assert not is_narrow(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)))


def test_training_stops_when_asked() -> None:
    seen: list[Epoch] = []
    with pytest.raises(Stopped):
        train(
            network(),
            coloured(8),
            coloured(4, 1),
            SPEC,
            TrainPlan(5, 1e-3, batch=8),
            LOSS,
            on_epoch=seen.append,
            should_stop=lambda: bool(seen),
        )
    assert len(seen) == 1


def test_batch_norm_statistics_become_those_of_the_tiles() -> None:
    model = network()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        norm.running_mean.fill_(100.0)
    reestimate_batch_norm(model, coloured(32), SPEC)
    assert norm.running_mean.abs().max() < 10
    assert norm.momentum == 0.1
    assert not model.training


def test_a_network_without_batch_norm_is_left_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    reestimate_batch_norm(model, coloured(4), SPEC)


def test_class_weights_make_rare_classes_count() -> None:
    weights = class_weights([0] * 30 + [1] * 10, 2)
    assert weights.tolist() == pytest.approx([40 / 60, 40 / 20])


def batch(inputs: torch.Tensor, rows: list[int], seen: int = 0) -> Batch:
    return Batch(inputs, torch.tensor(rows) % 2, torch.tensor(rows), seen)


class Counting(nn.Module):
    """Answers with the mean of each channel, and counts the tiles that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.shown.append(len(inputs))
        return inputs.mean(dim=(2, 3))[:, :2]


def test_a_student_that_answers_like_its_teacher_has_no_distillation_loss() -> None:
    teacher = network().eval()
    seen = batch(torch.randn(4, 3, 32, 32), [0, 1, 2, 3])
    with torch.no_grad():
        logits = teacher(seen.inputs)
    pure = distillation_loss(Teacher(teacher, 4), torch.ones(2), label_share=0.0)
    assert float(pure(seen, logits)) == pytest.approx(0, abs=1e-6)
    assert float(pure(seen, logits.flip(1) * 3)) > 0.01


def test_a_teacher_is_asked_once_for_each_view_of_a_tile() -> None:
    model = Counting()
    teacher = Teacher(model, 6)
    inputs = torch.rand(6, 3, 8, 8)
    first = teacher.answers(batch(inputs[:3], [0, 1, 2]))
    teacher.answers(batch(inputs[3:], [3, 4, 5]))
    again = teacher.answers(batch(inputs, [0, 1, 2, 3, 4, 5]))
    assert model.shown == [3, 3]
    assert torch.equal(again[:3], first)
    teacher.answers(batch(inputs[:3], [0, 1, 2], seen=1))
    assert model.shown == [3, 3, 3]


def test_a_tile_looks_the_same_whenever_it_is_seen_in_the_same_view() -> None:
    tiles = torch.rand(4, 3, 8, 8)
    rows = torch.tensor([2, 0])
    one = augment(tiles[rows], view(4, 7, 3), rows)
    other = augment(tiles, view(4, 7, 3), torch.arange(4))[rows]
    assert torch.allclose(one, other)
    assert not torch.allclose(one, augment(tiles[rows], view(4, 7, 4), rows))


def test_a_teacher_of_another_size_and_normalisation_sees_the_same_tile() -> None:
    pixels = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 32)
    own, given = InputSpec(16, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)), SPEC
    mean, std = torch.tensor(given.mean).view(1, 3, 1, 1), torch.tensor(given.std).view(1, 3, 1, 1)
    seen = adapted(nn.Identity(), own, given)((pixels - mean) / std)
    assert seen.shape == (2, 3, 16, 16)
    wanted = (pixels[:, :, :16, :16] - torch.tensor(own.mean).view(1, 3, 1, 1)) / torch.tensor(own.std).view(1, 3, 1, 1)
    assert torch.allclose(seen, wanted, atol=1e-5)


def test_the_eight_symmetries_are_all_different_and_keep_the_pixels() -> None:
    tile = torch.arange(27.0).view(1, 3, 3, 3)
    turned = symmetries(tile.repeat(8, 1, 1, 1), torch.arange(8))
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    assert torch.equal(turned[0], tile[0])
    for t in turned:
        assert torch.equal(t.flatten(1).sort(1).values, tile[0].flatten(1).sort(1).values)


def test_augmentation_leaves_the_gram_colour_alone() -> None:
    violet = torch.tensor([110.0, 40.0, 150.0]).view(1, 3, 1, 1).repeat(64, 1, 8, 8) / 255
    pixels = augment(violet, view(64, 0, 0), torch.arange(64)).mean(dim=(2, 3))
    ratios = pixels / pixels.sum(dim=1, keepdim=True)
    honest = torch.tensor([110.0, 40.0, 150.0]) / 300
    assert (ratios - honest).abs().max() < 0.015
    assert pixels.std() > 0
