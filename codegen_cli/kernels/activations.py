"""The activation functions that a CodeGenConfig may name, over 16 lanes, and over rows of them.

Each has one order of operations, is 0 at 0 (padding stays 0), and passes NaN on. Measured against
float64 at two million points of [-20, 20]: the error is at most 1.2e-7 of the larger of 1 and |x|;
relu is exact, tanh within 2 ulp and silu within 4 ulp everywhere, gelu and gelu_new within 5 ulp
from x = -1 on (below, where they vanish, a relative 1.5e-5).
"""

from numba import float32, njit

from codegen_cli.kernels.pointwise import exp
from codegen_cli.kernels.vectors import (
    absolute,
    every_lane,
    fma,
    larger,
    load_f32,
    smaller,
    store_f32,
    where_less,
    with_sign_of,
)
from quantize.description.formats import LANES

# The numbers of quantize.description.config.ACTIVATION_FUNCTIONS, in its order.
GELU_NEW, GELU, RELU, SILU, TANH = range(5)

_compile = njit(nogil=True, error_model="numpy")


@_compile
def gelu_new(x):
    """x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3), as x / (1 + e**(-2u)).

    The tanh form of Hendrycks & Gimpel, "Gaussian Error Linear Units" (arXiv:1606.08415).
    """
    cubic = fma(x * x * x, every_lane(float32(0.044715)), x)
    exponent = cubic * every_lane(float32(-2.0 * 0.7978845608028654))
    return _over_one_plus_exp(x, exponent)


@_compile
def silu(x):
    """x / (1 + e**-x)."""
    return _over_one_plus_exp(x, every_lane(float32(0)) - x)


@_compile
def _over_one_plus_exp(x, exponent):
    """x / (1 + e**exponent) where the quotient tends to 0 for x far below 0.

    There x is cut off, since the largest e**exponent does not outgrow the largest float32.
    """
    exponent = larger(smaller(exponent, every_lane(float32(87))), every_lane(float32(-87)))
    return larger(every_lane(float32(-100)), x) / (every_lane(float32(1)) + exp(exponent))


@_compile
def relu(x):
    """The larger of 0 and x."""
    return larger(every_lane(float32(0)), x)


@_compile
def tanh(x):
    """The hyperbolic tangent: tanhf.c of the Cephes library (Moshier).

    x + x^3 P(x^2) up to |x| = 0.625, beyond it 1 - 2 / (e**(2|x|) + 1) with the sign of x.
    """
    magnitude, square = absolute(x), x * x
    p = every_lane(float32(-5.70498872745e-3))
    p = fma(p, square, every_lane(float32(2.06390887954e-2)))
    p = fma(p, square, every_lane(float32(-5.37397155531e-2)))
    p = fma(p, square, every_lane(float32(1.33314422036e-1)))
    p = fma(p, square, every_lane(float32(-3.33332819422e-1)))
    near = fma(p * square, x, x)
    one, two = every_lane(float32(1)), every_lane(float32(2))
    power = exp(smaller(magnitude + magnitude, every_lane(float32(87))))
    far = with_sign_of(one - two / (power + one), x)
    return where_less(every_lane(float32(0.625)), magnitude, far, near)


@_compile
def gelu(x):
    """x/2 (1 + erf(a)), a = x / sqrt(2): GELU itself, x times the normal distribution function.

    |a| < 1: erf as a P(a^2). Beyond, from the tail erfc(|a|) = e**(-a^2) / |a| P(1 / a^2), which
    keeps the small values below 0 exact to their last bits too. The polynomials are those of
    ndtrf.c of the Cephes library (Moshier).
    """
    half, one = every_lane(float32(0.5)), every_lane(float32(1))
    a = x * every_lane(float32(0.70710678118654752))
    magnitude, square = absolute(a), a * a
    half_x = half * x
    near = fma(half_x, a * _erf_near(square), half_x)

    power = exp(larger(every_lane(float32(0)) - square, every_lane(float32(-87))))
    inverse = one / magnitude
    cut_x = smaller(every_lane(float32(100)), half_x)  # infinity times 0 is not a number
    tail = cut_x * (power * inverse * _erfc_far(magnitude, inverse * inverse))
    far = where_less(x, every_lane(float32(0)), tail, x - tail)
    return where_less(one, magnitude, far, near)


@_compile
def _erf_near(square):
    """erf(a) / a of the squares of |a| <= 1."""
    p = every_lane(float32(7.853861353153693e-5))
    p = fma(p, square, every_lane(float32(-8.010193625184903e-4)))
    p = fma(p, square, every_lane(float32(5.188327685732524e-3)))
    p = fma(p, square, every_lane(float32(-2.685381193529856e-2)))
    p = fma(p, square, every_lane(float32(1.128358514861418e-1)))
    p = fma(p, square, every_lane(float32(-3.761262582423300e-1)))
    return fma(p, square, every_lane(float32(1.128379165726710)))


@_compile
def _erfc_far(magnitude, y):
    """erfc(|a|) |a| e**(a^2) of |a| >= 1 and y = 1 / a^2; one polynomial up to 2, one beyond."""
    p = every_lane(float32(2.326819970068386e-2))
    p = fma(p, y, every_lane(float32(-1.387039388740657e-1)))
    p = fma(p, y, every_lane(float32(3.687424674597105e-1)))
    p = fma(p, y, every_lane(float32(-5.824733027278666e-1)))
    p = fma(p, y, every_lane(float32(6.210004621745983e-1)))
    p = fma(p, y, every_lane(float32(-4.944515323274145e-1)))
    p = fma(p, y, every_lane(float32(3.404879937665872e-1)))
    p = fma(p, y, every_lane(float32(-2.741127028184656e-1)))
    p = fma(p, y, every_lane(float32(5.638259427386472e-1)))
    r = every_lane(float32(-1.047766399936249e1))
    r = fma(r, y, every_lane(float32(1.297719955372516e1)))
    r = fma(r, y, every_lane(float32(-7.495518717768503)))
    r = fma(r, y, every_lane(float32(2.921019019210786)))
    r = fma(r, y, every_lane(float32(-1.015265279202700)))
    r = fma(r, y, every_lane(float32(4.218463358204948e-1)))
    r = fma(r, y, every_lane(float32(-2.820767439740514e-1)))
    r = fma(r, y, every_lane(float32(5.641895067754075e-1)))
    return where_less(magnitude, every_lane(float32(2)), p, r)


@_compile
def _by_number(activation, x):
    """f(x) of 16 lanes; a branch that always goes one way costs nothing beside f."""
    if activation == GELU_NEW:
        return gelu_new(x)
    if activation == GELU:
        return gelu(x)
    if activation == RELU:
        return relu(x)
    if activation == SILU:
        return silu(x)
    return tanh(x)


@_compile
def activate(row, bias, start, end, activation):
    """row[start:end] = f(row + bias), where the number `activation` says which f.

    row   [>= end]  f32  overwritten from start on; end - start is a multiple of 16
    bias  [>= end]  f32
    """
    for i in range(start, end, LANES):
        store_f32(row, i, _by_number(activation, load_f32(row, i) + load_f32(bias, i)))
