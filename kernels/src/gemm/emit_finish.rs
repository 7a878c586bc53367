//! From a sum to what is stored: the epilogues, one element at a time.

use super::emit::{Finish, Stored};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// Registers of [`apply`].
pub(super) fn declare(k: &mut Kernel, finish: Finish) {
    if matches!(finish, Finish::BiasGelu | Finish::BiasGeluKept | Finish::GeluMask) {
        k.regs(Kind::F32, "erf_x erf_magnitude erf_t erf_minus_t erf_square erf_far erf_near erf cdf density point");
        k.regs(Kind::Pred, "erf_is_near");
    }
    if finish == Finish::ReluMask {
        k.regs(Kind::Pred, "active");
    }
}

/// The sum in register `x` becomes the result, given the registers of the bias and of the other matrix's element.
pub(super) fn apply(k: &mut Kernel, finish: Finish, x: &Reg, bias: &Reg, other: &Reg) {
    match finish {
        Finish::None | Finish::Partial => {}
        Finish::Bias | Finish::BiasGeluKept => ptx!(k, "add.rn.f32 {x}, {x}, {bias};"),
        Finish::BiasRelu => ptx!(k, "add.rn.f32 {x}, {x}, {bias};\nmax.f32 {x}, {x}, {};", float(0.0)),
        Finish::BiasGelu => {
            ptx!(k, "add.rn.f32 {x}, {x}, {bias};");
            gelu(k, x);
        }
        Finish::BiasResidual => ptx!(k, "add.rn.f32 {x}, {x}, {bias};\nadd.rn.f32 {x}, {x}, {other};"),
        Finish::Residual | Finish::Accumulate => ptx!(k, "add.rn.f32 {x}, {x}, {other};"),
        Finish::ReluMask => ptx!(k, "setp.gt.f32 %active, {other}, {zero};\nselp.f32 {x}, {x}, {zero}, %active;", zero = float(0.0)),
        Finish::GeluMask => gelu_derivative(k, x, other),
    }
}

/// `x = gelu(x)`.
pub(super) fn gelu(k: &mut Kernel, x: &Reg) {
    ptx!(k, "mov.f32 %point, {x};");
    cdf(k);
    ptx!(k, "mul.rn.f32 {x}, {x}, %cdf;");
}

/// `x *= gelu'(pre)`: `Phi(x) + x phi(x)`.
fn gelu_derivative(k: &mut Kernel, x: &Reg, pre: &Reg) {
    ptx!(k, "mov.f32 %point, {pre};");
    cdf(k);
    ptx!(k, "min.f32 %density, %point, {};\nmax.f32 %density, %density, {};", float(13.0), float(-13.0));
    ptx!(k, "mul.rn.f32 %density, %density, %density;");
    ptx!(k, "mul.rn.f32 %density, %density, {};", float(-0.5 * std::f32::consts::LOG2_E));
    ptx!(k, "ex2.approx.ftz.f32 %density, %density;");
    ptx!(k, "mul.rn.f32 %density, %density, {};", float(0.398_942_3));
    ptx!(k, "fma.rn.f32 %cdf, %point, %density, %cdf;\nmul.rn.f32 {x}, {x}, %cdf;");
}

/// `%cdf = (1 + erf(%point / sqrt 2)) / 2`; erf as the CPU computes it (`runtime::math::erf_f32`).
fn cdf(k: &mut Kernel) {
    const FAR: [f32; 9] =
        [-0.822_152_23, 1.488_515_9, -1.135_204, 0.278_868_07, -0.186_288_06, 0.096_784_18, 0.374_091_96, 1.000_023_7, -1.265_512_2];
    const NEAR: [f32; 5] = [1.0 / 216.0, -1.0 / 42.0, 0.1, -1.0 / 3.0, 1.0];
    ptx!(k, "mul.rn.f32 %erf_x, %point, {};", float(std::f32::consts::FRAC_1_SQRT_2));
    ptx!(k, "min.f32 %erf_x, %erf_x, {};\nmax.f32 %erf_x, %erf_x, {};", float(6.0), float(-6.0));
    ptx!(k, "abs.f32 %erf_magnitude, %erf_x;\nmul.rn.f32 %erf_square, %erf_x, %erf_x;");
    ptx!(k, "fma.rn.f32 %erf_t, %erf_magnitude, {}, {};\nrcp.approx.ftz.f32 %erf_t, %erf_t;", float(0.5), float(1.0));
    ptx!(k, "mov.f32 %erf_far, {};", float(0.170_872_77));
    for coefficient in FAR {
        ptx!(k, "fma.rn.f32 %erf_far, %erf_far, %erf_t, {};", float(coefficient));
    }
    ptx!(k, "sub.rn.f32 %erf_far, %erf_far, %erf_square;\nmul.rn.f32 %erf_far, %erf_far, {};", float(std::f32::consts::LOG2_E));
    ptx!(k, "ex2.approx.ftz.f32 %erf_far, %erf_far;\nneg.f32 %erf_minus_t, %erf_t;");
    ptx!(k, "fma.rn.f32 %erf_far, %erf_minus_t, %erf_far, {};\ncopysign.f32 %erf_far, %erf_x, %erf_far;", float(1.0));
    ptx!(k, "mov.f32 %erf_near, {};", float(-1.0 / 1320.0));
    for coefficient in NEAR {
        ptx!(k, "fma.rn.f32 %erf_near, %erf_near, %erf_square, {};", float(coefficient));
    }
    ptx!(k, "mul.rn.f32 %erf_near, %erf_near, %erf_x;\nmul.rn.f32 %erf_near, %erf_near, {};", float(std::f32::consts::FRAC_2_SQRT_PI));
    ptx!(k, "setp.lt.f32 %erf_is_near, %erf_magnitude, {};\nselp.f32 %erf, %erf_near, %erf_far, %erf_is_near;", float(0.5));
    ptx!(k, "fma.rn.f32 %cdf, %erf, {half}, {half};", half = float(0.5));
}

/// Loads one element into a float register where `guard` holds; `half` is a 16-bit register to pass through.
pub(super) fn load(k: &mut Kernel, stored: Stored, guard: &str, target: &Reg, address: &str) {
    match stored {
        Stored::F32 | Stored::Tf32 => ptx!(k, "@{guard} ld.global.f32 {target}, [{address}];"),
        Stored::F16 => ptx!(k, "mov.b16 %half, 0;\n@{guard} ld.global.b16 %half, [{address}];\ncvt.f32.f16 {target}, %half;"),
        Stored::Bf16 => ptx!(k, "mov.b16 %half, 0;\n@{guard} ld.global.b16 %half, [{address}];\nmov.b32 {target}, {{%no_bits, %half}};"),
    }
}

/// Stores `%x` where `guard` holds, rounded to nearest even if it must be.
pub(super) fn store(k: &mut Kernel, stored: Stored, guard: &str, address: &str) {
    match stored {
        Stored::F32 | Stored::Tf32 => ptx!(k, "@{guard} st.global.f32 [{address}], %x;"),
        Stored::F16 => ptx!(k, "cvt.rn.f16.f32 %half, %x;\n@{guard} st.global.b16 [{address}], %half;"),
        Stored::Bf16 => ptx!(k, "cvt.rn.bf16.f32 %half, %x;\n@{guard} st.global.b16 [{address}], %half;"),
    }
}
