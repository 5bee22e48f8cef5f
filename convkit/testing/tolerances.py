"""How far a correct result may lie from the exact one: computed from the number format and the sum, never tuned.

Every raw operation is a sum of ``terms`` products, and perhaps a few more roundings, kept in an accumulate
type with unit roundoff u and stored in a type with unit roundoff v. Whatever the order of the sum, and with
fused multiply-adds or without (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1
and 4.2),

    |computed sum - exact sum|  <=  gamma(n, u) * magnitude,      gamma(n, u) = n u / (1 - n u),

where n counts the roundings on the longest path and ``magnitude`` is the same operation on absolute values,
sum |x| |w|. Storing rounds once more, by v |sum|. Products and stored values may underflow gradually, which
loses at most one smallest subnormal number each. The float64 oracle commits the same error with u = 2^-53.

The bound is a theorem, so a correct kernel never exceeds it; and since it is proportional to n u times the
magnitude, one missing or misplaced product among n exceeds it by a factor of about 1 / (n^2 u).
"""

from __future__ import annotations

import torch
from torch import Tensor

from convkit.problem import ACTIVATIONS

#: Activations of at most one product.
PIECEWISE = tuple(ACTIVATIONS.index(name) for name in ("identity", "relu", "leaky_relu"))
#: The type in which sums over elements of a type are kept.
ACCUMULATE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.complex64,
    torch.complex128: torch.complex128,
}


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number: the largest relative error of one rounding to nearest."""
    return torch.finfo(dtype).eps / 2


def gamma(roundings: int, u: float) -> float:
    """The relative error bound of ``roundings`` roundings in a row with unit roundoff ``u``."""
    return roundings * u / (1 - roundings * u)


def stored(exact: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """The bound of a result that errs by ``error`` and is then rounded to ``dtype``."""
    store = unit_roundoff(dtype) if dtype != ACCUMULATE[dtype] else 0.0
    return error * (1 + store) + store * exact.abs().double() + smallest_subnormal(dtype)


def summation(
    exact: Tensor,
    magnitude: Tensor,
    terms: int,
    dtype: torch.dtype,
    more_roundings: int = 0,
    amplification: float = 1.0,
) -> Tensor:
    """The largest admissible error of each element of a sum of ``terms`` products, as float64.

    ``exact`` and ``magnitude`` are the oracle's results on the data and on its absolute values;
    ``more_roundings`` counts what follows the sum (a bias, a division, ...). ``amplification`` is 1 for every
    algorithm that adds the products as they are; one that transforms its operands (Winograd) states its own.
    A complex product errs by sqrt(2) gamma(2) of its modulus (Higham, lemma 3.5).
    """
    accumulate = ACCUMULATE[dtype]
    complex_factor = 2.0**0.5 if dtype.is_complex else 1.0
    roundings = terms + more_roundings + (2 if dtype.is_complex else 0)
    relative = gamma(roundings, unit_roundoff(accumulate)) + gamma(roundings, unit_roundoff(torch.float64))
    error = amplification * complex_factor * relative * magnitude.double()
    return stored(exact, error, dtype) + roundings * smallest_subnormal(accumulate)


#: Roundings of one power: CUDA's powf is documented to err by four units in the last place, and C libraries' by less.
POWER = 8
#: Roundings of one term of lp_pool's gradient, dy (x / y)^(p - 1) for |p - 1| up to 4: two powers, the quotient, whose
#: error the power multiplies, and the products.
LP_SLOPE = 2 * POWER + 4


def root_of_sum(exact: Tensor, terms: int, p: float, dtype: torch.dtype) -> Tensor:
    """The largest admissible error of y = (sum of ``terms`` powers x^p)^(1/p), no power being negative.

    The root is a power too. So the sum of positive numbers errs by ``terms`` + ``POWER`` roundings, of which the root
    keeps the part 1/|p|; scaling by a maximum and back is four more.
    """
    accumulate = ACCUMULATE[dtype]
    u = unit_roundoff(accumulate) + unit_roundoff(torch.float64)
    error = (gamma(terms + POWER, u) / abs(p) + gamma(POWER + 4, u)) * exact.abs().double()
    return stored(exact, error, dtype)


#: No activation has a larger derivative: those of silu and gelu reach 1.10 and 1.13.
STEEPEST = 1.13


def activated(value: Tensor, tolerance: Tensor, activation: int, alpha: float, dtype: torch.dtype) -> Tensor:
    """The bound after an activation of a value with the bound ``tolerance``, evaluated with a handful of roundings.

    Each activation of ``ACTIVATIONS`` is an elementary function (one unit in the last place) inside at most
    four arithmetic operations; none of them exceeds |v| + 1 in magnitude.
    """
    if activation == ACTIVATIONS.index("identity"):
        return tolerance
    slope = max(STEEPEST, abs(alpha))
    roundings = 1 if activation in PIECEWISE else 8
    own = gamma(roundings, unit_roundoff(ACCUMULATE[dtype]))
    return tolerance * slope + own * slope * (value.abs() + 1)


def tensor_core_error(tf32: bool) -> float:
    """The relative error of a float32 product on a GPU's tensor cores, whose operands have 11 significant bits.

    TF32 rounds each operand once. Else an operand is the sum of two TF32 numbers but for 2^-22 of it, and of the four
    products the smallest, as small, is left out; sums of three products are cut off, not rounded, which up to 72 terms
    may exceed what the bound of the sum allows: by two units in the last place of three sums, or 1.5 x 2^-22.
    """
    return (2 + 2.0**-11) * 2.0**-11 if tf32 else 5 * 2.0**-22


def smallest_subnormal(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps
