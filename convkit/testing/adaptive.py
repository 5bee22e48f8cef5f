"""The adaptive poolings of the catalogue: windows cut from the sizes of input and output."""

from convkit.testing.cases import PoolCase

ADAPTIVE = (
    PoolCase("adaptive_uneven", "windows of two sizes, some overlap", (2, 3, 10, 13), output_size=(4, 6)),
    PoolCase("adaptive_uneven_1d", "the same in a row", (2, 3, 13), output_size=5),
    PoolCase("adaptive_uneven_3d", "the same in a volume, one dimension even", (1, 2, 5, 6, 7), output_size=(2, 3, 4)),
    PoolCase("adaptive_largest", "the largest window is floor(L / O) + 2 long", (1, 2, 10, 11), output_size=7),
    PoolCase("adaptive_tiles", "all windows alike: they tile the input", (2, 3, 12, 8), output_size=(4, 2)),
    PoolCase("adaptive_global", "one window over the whole plane", (2, 5, 6, 7), output_size=1),
    PoolCase("adaptive_copy", "as many windows as elements", (1, 2, 5, 6), output_size=(5, 6)),
    PoolCase("adaptive_one_row", "one dimension collapses, the other is uneven", (1, 3, 6, 11), output_size=(1, 4)),
    PoolCase("adaptive_up", "more windows than elements: each is read several times", (1, 2, 4, 3), output_size=(7, 8)),
    PoolCase("adaptive_up_down", "more windows in one dimension, fewer in another", (1, 2, 3, 11), output_size=(5, 4)),
    PoolCase("adaptive_up_far", "one element, many windows", (1, 2, 1, 2), output_size=(3, 19)),
    PoolCase("adaptive_none", "an output without elements", (1, 2, 4, 5), output_size=(0, 3)),
    PoolCase("adaptive_batch_0", "an empty batch", (0, 2, 5, 7), output_size=3),
    PoolCase("adaptive_channels", "a vector tail along the channels", (1, 17, 7, 6), output_size=(3, 4)),
    PoolCase("adaptive_channels_64", "whole vectors along the channels", (1, 64, 5, 7), output_size=3),
    PoolCase("adaptive_wide", "more windows than a vector has lanes", (1, 2, 3, 70), output_size=(2, 33)),
    PoolCase("adaptive_planes", "more planes than lie side by side", (5, 9, 5, 5), output_size=3),
    PoolCase("adaptive_offsets_2_bytes", "a window whose offsets need two bytes", (1, 1, 40, 37), output_size=2),
)
