"""output_size and receptive_field: the lectures' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convkit


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((7, 3), 5),
        ((7, 3, 2), 3),
        ((7, 3, 3), 2),
        ((227, 11, 4), 55),
        ((32, 5, 1, 2), 32),
        ((9, 3, 2, 1, 2), 4),
        (((224, 112), 7, 2, 3), (112, 56)),
        (((8, 8), (3, 1), 1, "same"), (8, 8)),
        (((7, 8), 3, 2, "same_upper"), (4, 4)),
        (((7, 8), 3, 1, ((1, 2), (0, 0))), (8, 6)),
    ],
)
def test_output_size(arguments: tuple, expected: object) -> None:
    assert convkit.output_size(*arguments) == expected


def test_output_size_is_what_layers_give() -> None:
    x = torch.zeros(1, 1, 13, 11)
    for stride, padding, dilation in ((1, 0, 1), (2, 1, 2), (3, 1, 1)):
        for ceil_mode in (False, True):
            out = nn.MaxPool2d(3, stride, padding, dilation, ceil_mode=ceil_mode)(x)
            assert convkit.output_size((13, 11), 3, stride, padding, dilation, ceil_mode=ceil_mode) == out.shape[2:]
        up = nn.ConvTranspose2d(1, 1, 3, stride, padding, stride - 1, dilation=dilation)(x)
        size = convkit.output_size((13, 11), 3, stride, padding, dilation, transposed=True, output_padding=stride - 1)
        assert size == up.shape[2:]


def test_strict_and_errors() -> None:
    with pytest.raises(RuntimeError, match=r"doesn't fit.*\(7 - 3\) / 3 \+ 1 = 2.33"):
        convkit.output_size(7, 3, 3, strict=True)
    assert convkit.output_size(7, 3, 2, strict=True) == 3
    with pytest.raises(RuntimeError, match="Output size is too small"):
        convkit.output_size(2, 3)
    for bad in ((7, 0), (7, 3, 0), (7, 3, 1, -1), (7, 3, 1, "full"), ((7, 7), (3, 3, 3))):
        with pytest.raises(ValueError, match=r"must be|Invalid"):
            convkit.output_size(*bad)
    with pytest.raises(TypeError):
        convkit.output_size(7, 3.0)


def test_receptive_field_of_a_stack() -> None:
    # Three 3x3 layers see 7x7, like one 7x7 layer.
    assert convkit.receptive_field([3, 3, 3]).size == (7,)
    net = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2))
    field = convkit.receptive_field(net)
    assert [layer.name for layer in field] == ["0", "2", "3", "4"]
    assert [layer.receptive_field for layer in field] == [(5, 5), (6, 6), (14, 14), (16, 16)]
    assert [layer.jump for layer in field] == [(1, 1), (2, 2), (2, 2), (4, 4)]
    assert field.size == (16, 16)
    assert "16" in str(field).splitlines()[-1]
    assert convkit.receptive_field(list(net)).size == (16, 16)
    assert convkit.receptive_field([(3, 2, 1), (3, 1, 0, 2)]).size == (11,)


def test_receptive_field_is_where_the_gradient_is() -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 3, 2, dilation=2), nn.MaxPool1d(3, 2), nn.Conv1d(1, 1, 2)).double()
    net[1] = nn.AvgPool1d(3, 2)
    for p in net.parameters():
        nn.init.ones_(p)
    x = torch.ones(1, 1, 64, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x)[0, 0, 0], x)
    seen = grad.view(-1).nonzero().view(-1)
    field = convkit.receptive_field(net)
    assert field.size == (int(seen[-1] - seen[0]) + 1,)
    assert field[-1].start == ((seen[-1] + seen[0]).item() / 2,)


def test_transposed_layers_have_none() -> None:
    with pytest.raises(ValueError, match="transposed"):
        convkit.receptive_field(nn.ConvTranspose2d(1, 1, 3))
