"""The named cases of the tests: small problems, each with the reason why it is there.

Sizes are small on purpose: slow implementations (interpreters, emulators) run the same catalogue. Parameters
differ between the dimensions wherever a kernel could mix them up.
"""

from convkit.testing.adaptive import ADAPTIVE
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase

CONVOLUTIONS = (
    # --- the ordinary ones, in each number of dimensions ---
    ConvCase("plain_1d", "the smallest ordinary case", (2, 3, 10), (4, 3, 3)),
    ConvCase("plain_2d", "the smallest ordinary case", (2, 3, 7, 6), (4, 3, 3, 3)),
    ConvCase("plain_3d", "the smallest ordinary case", (2, 3, 5, 6, 4), (4, 3, 2, 3, 2)),
    ConvCase("same_3x3", "the commonest layer of all networks", (2, 8, 6, 7), (8, 8, 3, 3), padding=1),
    ConvCase(
        "stem_7x7_s2",
        "the first layer of ResNet: few channels, large filter, stride",
        (1, 3, 15, 13),
        (8, 3, 7, 7),
        2,
        3,
    ),
    ConvCase(
        "patchify", "stride equals kernel: windows tile the input (patch embedding)", (2, 3, 8, 12), (5, 3, 4, 4), 4
    ),
    # --- every parameter unequal in every dimension ---
    ConvCase("unequal_1d", "stride, padding and dilation together", (3, 2, 17), (3, 2, 4), 3, 2, 2),
    ConvCase(
        "unequal_2d", "height and width parameters all differ", (2, 2, 9, 11), (3, 2, 3, 2), (2, 1), (1, 0), (2, 1)
    ),
    ConvCase(
        "unequal_2d_swapped",
        "the same with height and width exchanged",
        (2, 2, 11, 9),
        (3, 2, 2, 3),
        (1, 2),
        (0, 1),
        (1, 2),
    ),
    ConvCase(
        "unequal_3d",
        "depth, height and width parameters all differ",
        (2, 2, 5, 7, 8),
        (3, 2, 2, 3, 1),
        (1, 2, 3),
        (1, 2, 0),
        (2, 1, 1),
    ),
    ConvCase(
        "unequal_3d_rotated",
        "the same with the dimensions rotated",
        (1, 2, 8, 5, 7),
        (3, 2, 1, 2, 3),
        (3, 1, 2),
        (0, 1, 2),
        (1, 2, 1),
    ),
    # --- padding ---
    ConvCase("pad_pairs_1d", "unequal padding before and after", (2, 3, 9), (2, 3, 3), 2, ((0, 2),)),
    ConvCase("pad_pairs_2d", "four different paddings", (2, 2, 6, 7), (3, 2, 3, 4), 1, ((2, 0), (1, 3))),
    ConvCase(
        "pad_pairs_3d", "six different paddings", (1, 2, 4, 3, 5), (2, 2, 2, 3, 4), (2, 1, 1), ((1, 0), (0, 2), (3, 1))
    ),
    ConvCase("pad_beyond_kernel", "whole windows see nothing but padding", (1, 2, 3, 4), (2, 2, 2, 2), 1, 3),
    ConvCase("pad_only", "three of the four taps fall into the padding", (1, 2, 2, 2), (3, 2, 2, 2), 3, 2, 3),
    ConvCase(
        "dilation_jumps_input", "both taps of a window fall beside the input", (1, 1, 1, 2), (2, 1, 2, 2), 1, 2, 4
    ),
    # --- sizes ---
    ConvCase("window_is_input", "one output position: a fully connected layer", (3, 4, 5, 6), (7, 4, 5, 6)),
    ConvCase("window_is_input_1d", "one output position", (2, 5, 8), (3, 5, 8)),
    ConvCase("single_pixel", "nothing in any spatial dimension", (2, 5, 1, 1), (3, 5, 1, 1)),
    ConvCase("single_element", "all sizes 1", (1, 1, 1), (1, 1, 1)),
    ConvCase("pointwise", "1x1: a plain matrix product", (2, 19, 5, 7), (21, 19, 1, 1)),
    ConvCase("pointwise_strided", "1x1 with stride reads a quarter of the input", (2, 9, 7, 8), (10, 9, 1, 1), 2),
    ConvCase("pointwise_padded", "1x1 whose border outputs see only padding", (1, 3, 4, 3), (4, 3, 1, 1), 1, 1),
    ConvCase(
        "stride_beyond_kernel",
        "stride larger than the filter: input elements nobody reads",
        (2, 3, 11, 10),
        (4, 3, 2, 3),
        (5, 4),
    ),
    ConvCase("remainder", "stride leaves unread rows and columns at the end", (1, 2, 10, 11), (2, 2, 3, 3), 3),
    ConvCase("one_row", "height 1 under a wide filter", (2, 3, 1, 23), (4, 3, 1, 5), 1, (0, 2)),
    ConvCase("one_column", "width 1 under a tall filter", (2, 3, 23, 1), (4, 3, 5, 1), 1, (2, 0)),
    ConvCase(
        "one_column_3x3",
        "most taps of a 3x3 filter lie beside a one-pixel-wide input",
        (1, 2, 6, 1),
        (3, 2, 3, 3),
        1,
        1,
    ),
    ConvCase("batch_1", "no batch to run in parallel", (1, 4, 6, 6), (5, 4, 3, 3), 1, 1),
    ConvCase("batch_many", "more images than threads", (11, 2, 4, 5), (3, 2, 3, 3)),
    ConvCase("batch_0", "an empty batch: empty output, zero filter gradient", (0, 3, 6, 7), (4, 3, 3, 3), 1, 1),
    ConvCase("batch_0_1d", "an empty batch", (0, 2, 5), (2, 2, 3)),
    # --- around vector widths and block sizes ---
    ConvCase("width_15", "one output column less than a 16-float vector", (1, 3, 4, 17), (5, 3, 3, 3)),
    ConvCase("width_16", "exactly one vector", (1, 3, 4, 18), (5, 3, 3, 3)),
    ConvCase("width_17", "one output column more than a vector", (1, 3, 4, 19), (5, 3, 3, 3)),
    ConvCase("width_33_stride_2", "strided rows with a tail", (1, 2, 3, 67), (3, 2, 3, 3), 2, 1),
    ConvCase("channels_15_in_17_out", "both channel counts beside a vector width", (1, 15, 5, 4), (17, 15, 3, 3), 1, 1),
    ConvCase("channels_31_in_33_out", "both channel counts beside two vectors", (1, 31, 3, 4), (33, 31, 2, 2)),
    ConvCase("channels_many", "a reduction of several hundred products", (1, 70, 3, 3), (18, 70, 3, 3), 1, 1),
    ConvCase("channels_deep", "a reduction longer than one cache block", (1, 300, 2, 3), (3, 300, 3, 3), 1, 1),
    ConvCase("channels_1_in", "one input channel", (2, 1, 7, 9), (6, 1, 3, 3)),
    ConvCase("channels_1_out", "one output channel", (2, 6, 7, 9), (1, 6, 3, 3)),
    ConvCase("filters_many", "more filters than one register block takes", (1, 3, 3, 5), (67, 3, 2, 2)),
    ConvCase("plane_long", "more positions than one block of columns", (1, 2, 24, 25), (3, 2, 3, 3), 1, 1),
    ConvCase("long_1d", "an audio-like row: few channels, many positions", (1, 2, 1200), (3, 2, 9), 2, 4),
    ConvCase(
        "large_filter",
        "a filter larger than a register block in each direction",
        (1, 2, 13, 15),
        (2, 2, 11, 9),
        1,
        (5, 4),
    ),
    ConvCase(
        "kernel_5x5_s2", "an odd filter and stride 2, as in detection networks", (2, 4, 11, 13), (6, 4, 5, 5), 2, 2
    ),
    ConvCase("even_kernel", "no centre tap", (2, 3, 6, 7), (3, 3, 4, 2), 1, (2, 1)),
    # --- dilation ---
    ConvCase("dilated_2", "atrous convolution", (1, 4, 11, 12), (5, 4, 3, 3), 1, 2, 2),
    ConvCase("dilated_large", "a receptive field wider than the input", (1, 3, 8, 9), (4, 3, 3, 3), 1, 6, 6),
    ConvCase("dilated_1d_causal", "WaveNet: dilation with padding before only", (1, 4, 20), (4, 4, 2), 1, ((4, 0),), 4),
    ConvCase(
        "dilated_strided",
        "stride and dilation share a factor: some input columns are never read",
        (1, 2, 12, 13),
        (3, 2, 3, 3),
        2,
        2,
        2,
    ),
    ConvCase(
        "dilated_3d_beyond_input",
        "dilation larger than the input in channels_last",
        (1, 4, 2, 3, 3),
        (4, 4, 3, 3, 3),
        1,
        4,
        4,
    ),
    # --- groups ---
    ConvCase("groups_2", "two groups", (2, 6, 6, 5), (8, 3, 3, 3), 1, 1, groups=2),
    ConvCase(
        "groups_3_unequal",
        "groups with unequal channel counts per side",
        (1, 9, 7, 6),
        (6, 3, 3, 2),
        (1, 2),
        (1, 0),
        groups=3,
    ),
    ConvCase(
        "groups_many_wide", "ResNeXt: many groups of a few channels", (1, 32, 5, 5), (32, 4, 3, 3), 1, 1, groups=8
    ),
    ConvCase("groups_17_in_each", "groups whose channels leave a vector tail", (1, 34, 3, 4), (38, 17, 2, 2), groups=2),
    ConvCase("groups_1d", "groups in one dimension", (2, 4, 13), (6, 2, 3), 2, 1, groups=2),
    ConvCase("groups_3d", "groups in three dimensions", (1, 4, 3, 4, 5), (6, 2, 2, 2, 3), 1, 1, groups=2),
    # --- depthwise ---
    ConvCase("depthwise_3x3", "MobileNet", (2, 8, 9, 10), (8, 1, 3, 3), 1, 1, groups=8),
    ConvCase("depthwise_3x3_s2", "MobileNet's reducing layer", (2, 8, 9, 10), (8, 1, 3, 3), 2, 1, groups=8),
    ConvCase("depthwise_5x5_s2", "EfficientNet", (1, 5, 12, 11), (5, 1, 5, 5), 2, 2, groups=5),
    ConvCase("depthwise_7x7", "ConvNeXt", (1, 6, 10, 9), (6, 1, 7, 7), 1, 3, groups=6),
    ConvCase("depthwise_multiplier", "several filters per input channel", (2, 3, 7, 8), (9, 1, 3, 3), 1, 1, groups=3),
    ConvCase(
        "depthwise_channels_17", "a vector tail along the channels", (1, 17, 6, 7), (17, 1, 3, 3), 1, 1, groups=17
    ),
    ConvCase("depthwise_width_35", "a vector tail along the width", (1, 2, 4, 35), (2, 1, 3, 3), 1, 1, groups=2),
    ConvCase("depthwise_dilated", "dilated depthwise", (1, 4, 12, 13), (4, 1, 3, 3), 1, (2, 3), (2, 3), groups=4),
    ConvCase(
        "depthwise_unequal", "all parameters differ", (2, 3, 11, 9), (3, 1, 2, 3), (2, 1), (1, 0), (2, 1), groups=3
    ),
    ConvCase(
        "depthwise_pad_pairs", "four different paddings", (1, 4, 7, 9), (4, 1, 4, 3), 2, ((1, 2), (0, 3)), groups=4
    ),
    ConvCase("depthwise_large_stride", "stride beyond the filter", (1, 3, 11, 13), (3, 1, 2, 2), (4, 5), groups=3),
    ConvCase(
        "depthwise_tiny_input", "an input smaller than the filter's reach", (2, 4, 2, 2), (4, 1, 5, 5), 1, 2, groups=4
    ),
    ConvCase("depthwise_1d", "depthwise in one dimension", (2, 5, 40), (5, 1, 5), 1, 2, groups=5),
    ConvCase(
        "depthwise_1d_causal",
        "padding before only, as in sequence models",
        (1, 6, 21),
        (6, 1, 4),
        1,
        ((3, 0),),
        groups=6,
    ),
    ConvCase(
        "depthwise_3d",
        "depthwise in three dimensions",
        (1, 4, 4, 5, 6),
        (4, 1, 3, 2, 3),
        (1, 2, 1),
        (1, 0, 1),
        groups=4,
    ),
    ConvCase(
        "depthwise_single_channel",
        "one channel in one group: dense and depthwise at once",
        (2, 1, 8, 9),
        (1, 1, 3, 3),
        1,
        1,
    ),
)

TRANSPOSED = (
    TransposedCase("plain_1d", "the smallest ordinary case", (2, 3, 6), (3, 4, 3)),
    TransposedCase("plain_2d", "the smallest ordinary case", (2, 3, 4, 5), (3, 4, 3, 3)),
    TransposedCase("plain_3d", "the smallest ordinary case", (1, 3, 3, 4, 2), (3, 2, 2, 3, 2)),
    TransposedCase(
        "upsample_2x", "U-Net: stride equals kernel, windows tile the output", (2, 6, 5, 4), (6, 3, 2, 2), 2
    ),
    TransposedCase("dcgan_4x4", "GAN generators: 4x4, stride 2, padding 1", (1, 8, 5, 6), (8, 5, 4, 4), 2, 1),
    TransposedCase("output_padding", "the output size that stride leaves open", (1, 3, 4, 5), (3, 2, 3, 3), 2, 1, 1),
    TransposedCase(
        "output_padding_unequal",
        "output padding in one dimension, other strides",
        (2, 2, 4, 3),
        (2, 3, 3, 2),
        (2, 3),
        (1, 0),
        (0, 2),
    ),
    TransposedCase(
        "output_padding_below_dilation",
        "output padding may reach the stride where dilation is larger",
        (1, 2, 4, 4),
        (2, 2, 2, 2),
        1,
        1,
        2,
        3,
    ),
    TransposedCase(
        "phases_without_taps", "stride beyond the filter: whole phases stay zero", (1, 2, 4, 3), (2, 3, 2, 1), (5, 3)
    ),
    TransposedCase(
        "phases_without_taps_padded", "the same where padding shifts the phases", (1, 2, 4, 4), (2, 2, 2, 2), 4, 1, 3
    ),
    TransposedCase("dilated", "dilation", (1, 3, 6, 5), (3, 2, 3, 3), 1, 2, 0, 2),
    TransposedCase(
        "dilated_strided", "dilation and stride coprime: every phase has taps", (1, 2, 5, 6), (2, 3, 3, 2), 2, 1, 1, 3
    ),
    TransposedCase(
        "dilated_strided_shared",
        "dilation and stride share a factor: half the phases have none",
        (1, 2, 5, 6),
        (2, 3, 3, 3),
        2,
        2,
        1,
        2,
    ),
    TransposedCase("groups_2", "two groups", (2, 4, 4, 5), (4, 3, 3, 3), 2, 1, 1, groups=2),
    TransposedCase(
        "groups_unequal", "all parameters differ", (1, 6, 4, 3), (6, 2, 3, 2), (2, 1), (0, 1), (1, 0), (2, 1), groups=3
    ),
    TransposedCase("depthwise", "bilinear upsampling layers", (2, 5, 6, 4), (5, 1, 4, 4), 2, 1, groups=5),
    TransposedCase(
        "depthwise_multiplier", "several filters per input channel", (1, 4, 5, 4), (4, 3, 3, 3), 2, groups=4
    ),
    TransposedCase("pointwise", "1x1", (2, 9, 3, 5), (9, 17, 1, 1)),
    TransposedCase("pad_crops", "padding crops more than one window", (1, 2, 6, 7), (2, 2, 5, 5), 1, 4),
    TransposedCase("single_output", "padding leaves one element", (1, 2, 3, 3), (2, 3, 3, 3), 1, 2),
    TransposedCase("single_pixel", "one input element paints one filter", (3, 4, 1, 1), (4, 5, 4, 3)),
    TransposedCase("channels_many", "channel counts beside block sizes", (1, 33, 3, 4), (33, 17, 3, 3), 2, 1),
    TransposedCase("width_17_stride_2", "rows whose phases leave a vector tail", (1, 2, 3, 17), (2, 3, 3, 3), 2, 1, 1),
    TransposedCase("long_1d", "vocoder upsampling: large stride, long filter", (1, 4, 40), (4, 2, 16), 8, 4),
    TransposedCase(
        "unequal_3d",
        "all parameters differ in three dimensions",
        (1, 2, 3, 2, 4),
        (2, 2, 2, 3, 2),
        (1, 2, 3),
        (0, 1, 0),
        (0, 1, 2),
        (1, 1, 2),
    ),
    TransposedCase("batch_0", "an empty batch", (0, 2, 4, 4), (2, 3, 3, 3), 2),
)

POOLS = (
    PoolCase("k2_s2", "the commonest pooling: windows tile the input", (2, 3, 6, 8), 2),
    PoolCase("k3_s2_p1", "ResNet's pooling: windows overlap", (2, 3, 9, 11), 3, 2, 1),
    PoolCase("k3_s1_p1", "Inception's pooling: every input is in nine windows", (1, 4, 7, 6), 3, 1, 1),
    PoolCase("k2_s2_1d", "windows tile a row", (2, 3, 10), 2),
    PoolCase("k3_s2_1d", "windows overlap in a row", (2, 3, 21), 3, 2, 1),
    PoolCase("k2_s2_3d", "windows tile a volume", (1, 3, 4, 6, 4), 2),
    PoolCase("k3_s2_p1_3d", "windows overlap in a volume", (1, 2, 5, 6, 7), 3, 2, 1),
    PoolCase("unequal_1d", "kernel, stride, padding and dilation all differ", (2, 2, 19), 4, 3, 2, 2),
    PoolCase("unequal_2d", "height and width parameters all differ", (2, 2, 10, 11), (3, 2), (2, 1), (1, 0), (2, 1)),
    PoolCase(
        "unequal_2d_swapped", "the same with height and width exchanged", (2, 2, 11, 10), (2, 3), (1, 2), (0, 1), (1, 2)
    ),
    PoolCase(
        "unequal_3d",
        "depth, height and width parameters all differ",
        (1, 2, 5, 7, 8),
        (2, 3, 4),
        (1, 2, 3),
        (1, 0, 2),
        (1, 2, 1),
    ),
    PoolCase("remainder", "the last row and column belong to no window", (1, 2, 7, 8), 3, 3),
    PoolCase("gap", "stride beyond the kernel: elements between windows", (1, 3, 9, 10), 2, (4, 3)),
    PoolCase("global", "one window over the whole plane", (2, 5, 6, 7), (6, 7)),
    PoolCase("global_3d", "one window over the whole volume", (1, 3, 3, 4, 5), (3, 4, 5)),
    PoolCase("tiles_remainder", "tiles of two columns, and rows and columns that belong to none", (2, 3, 7, 37), 2),
    PoolCase("tiles_of_rows", "tiles of two columns, not of rows", (1, 3, 3, 5, 38), (1, 1, 2)),
    PoolCase("tiles_remainder_3d", "planes behind the last tile", (1, 2, 5, 5, 7), 2),
    PoolCase("stride_5", "a stride that no shuffle splits", (2, 3, 12, 43), 7, 5, 3),
    PoolCase("stride_18", "windows of more than a vector, with gaps", (2, 2, 9, 75), (3, 17), (4, 18), (1, 8)),
    PoolCase("stride_9_ceil", "a narrow window hangs over the edge", (1, 3, 8, 40), (3, 4), (2, 9), ceil_mode=True),
    PoolCase("k1", "windows of one element: a copy, or a subsampling", (1, 2, 5, 6), 1, 2),
    PoolCase("single_element", "all sizes 1", (1, 1, 1), 1),
    PoolCase("row_window", "a window along the width only", (2, 3, 4, 17), (1, 5), (1, 2), (0, 2)),
    PoolCase("column_window", "a window along the height only", (2, 3, 17, 4), (5, 1), (2, 1), (2, 0)),
    # --- padding ---
    PoolCase("pad_half", "the largest padding that PyTorch allows", (1, 2, 6, 7), 4, 3, 2),
    PoolCase("pad_exclude", "the divisor counts real elements only", (1, 2, 7, 6), 3, 2, 1, count_include_pad=False),
    PoolCase("pad_exclude_3d", "the same in three dimensions", (1, 2, 4, 5, 6), 3, 2, 1, count_include_pad=False),
    PoolCase(
        "pad_pairs", "four different paddings", (1, 2, 7, 8), (3, 4), 2, ((2, 0), (1, 3)), count_include_pad=False
    ),
    PoolCase("pad_pairs_counted", "unequal paddings in the divisor", (1, 2, 7, 8), 3, 2, ((0, 2), (2, 1))),
    PoolCase("pad_reach", "windows that touch the input with one element", (1, 2, 6, 35), 3, 1, ((2, 2), (2, 1))),
    PoolCase(
        "pad_reach_ceil", "the same beyond the edge", (1, 17, 4, 5), 4, (3, 2), ((3, 2), (1, 3)), 2, ceil_mode=True
    ),
    PoolCase("pad_causal_1d", "padding before only, longer than the row", (1, 2, 4), 3, 1, ((8, 0),), 4),
    # --- ceil_mode ---
    PoolCase("ceil_overhang", "the last windows hang over the edge", (1, 2, 8, 10), 3, 2, ceil_mode=True),
    PoolCase(
        "ceil_overhang_padded",
        "they hang over the padding as well; it counts, the overhang does not",
        (1, 2, 8, 9),
        3,
        (2, 3),
        1,
        ceil_mode=True,
    ),
    PoolCase(
        "ceil_overhang_exclude",
        "overhang and padding both uncounted",
        (1, 2, 8, 9),
        3,
        (2, 3),
        1,
        ceil_mode=True,
        count_include_pad=False,
    ),
    PoolCase(
        "ceil_drops_window", "a window that would start beyond the input is dropped", (1, 1, 3), 1, 3, ceil_mode=True
    ),
    PoolCase(
        "ceil_drops_window_2d", "dropped in one dimension, kept in the other", (1, 2, 7, 8), 2, 3, 1, ceil_mode=True
    ),
    PoolCase(
        "ceil_kernel_beyond_input", "the only window is larger than the input", (1, 2, 3, 2), 5, 4, ceil_mode=True
    ),
    PoolCase("ceil_3d", "overhang in three dimensions", (1, 2, 5, 4, 6), (2, 3, 2), (2, 2, 3), ceil_mode=True),
    PoolCase("ceil_exact", "nothing hangs over", (1, 2, 6, 8), 2, 2, ceil_mode=True),
    # --- divisors ---
    PoolCase(
        "divisor_override",
        "a divisor that edges do not change",
        (1, 2, 7, 8),
        3,
        2,
        1,
        ceil_mode=True,
        divisor_override=3,
    ),
    PoolCase("divisor_override_negative", "PyTorch allows a negative divisor", (1, 2, 6, 6), 2, 2, divisor_override=-5),
    # --- dilation ---
    PoolCase("dilated", "dilated windows overlap without sharing all elements", (1, 2, 9, 10), 3, 1, 1, 2),
    PoolCase("dilated_strided", "dilation and stride share a factor", (1, 2, 11, 12), 3, 2, 1, 2),
    PoolCase("dilated_ceil", "a dilated window hangs over the edge", (1, 2, 9, 10), 3, 2, 1, 2, ceil_mode=True),
    PoolCase(
        "dilation_jumps_input",
        "no tap of a window meets the input: minus infinity, and an average of 0",
        (1, 2, 2, 2),
        2,
        1,
        1,
        3,
        count_include_pad=False,
    ),
    # --- around vector widths ---
    PoolCase("width_15", "one output column less than a vector", (1, 2, 4, 31), 3, 2, 1),
    PoolCase("width_33", "a vector tail at stride 1", (1, 1, 4, 35), 3, 1),
    PoolCase("width_66_tiles", "a vector tail where windows tile", (1, 1, 4, 66), 2),
    PoolCase("channels_17", "a vector tail along the channels", (1, 17, 5, 6), 3, 2, 1),
    PoolCase("channels_64", "whole vectors along the channels", (1, 64, 3, 4), 2, 1),
    PoolCase("planes_many", "more planes than threads", (5, 7, 4, 4), 2),
    PoolCase("long_1d", "one long row", (1, 2, 1000), 5, 3, 2),
    # --- window offsets ---
    PoolCase("offsets_255", "the largest window whose offsets need one byte", (1, 1, 17, 18), (17, 15), 1),
    PoolCase("offsets_256", "the smallest window whose offsets need two bytes", (1, 2, 17, 18), 16, 1),
    PoolCase("offsets_2_bytes", "a window whose offsets need two bytes", (1, 2, 20, 19), (17, 16), (2, 3)),
    PoolCase("offsets_2_bytes_3d", "a volume whose offsets need two bytes", (1, 1, 6, 7, 8), (6, 7, 7), 1, 1),
    PoolCase("batch_0", "an empty batch", (0, 3, 6, 7), 3, 2, 1),
    *ADAPTIVE,
)
