//! f64 arithmetic rounded towards zero, down or up: the nearest result, moved by one where what it lacks points the other way.

use super::format::Rounding;
use crate::lanes::Lanes;

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// `nearest` moved as the mode says, where the exact value is `nearest + rest`; only the sign of `rest` counts.
fn moved(nearest: f64, rest: f64, finite: bool, mode: Rounding) -> u64 {
    let down = mode == Rounding::Down || (mode == Rounding::Zero && nearest > 0.0);
    if nearest.is_infinite() && finite {
        // The exact value is finite: the way back is as long as the mode says.
        let inwards = if nearest > 0.0 { down } else { !down };
        return if inwards { f64::MAX.copysign(nearest).to_bits() } else { nearest.to_bits() };
    }
    match (down, rest.partial_cmp(&0.0)) {
        (true, Some(std::cmp::Ordering::Less)) => nearest.next_down().to_bits(),
        (false, Some(std::cmp::Ordering::Greater)) => nearest.next_up().to_bits(),
        _ => nearest.to_bits(),
    }
}

/// What `sum = a + b` lacks.
fn lacks(a: f64, b: f64, sum: f64) -> f64 {
    let part = sum - a;
    (a - (sum - part)) + (b - part)
}

fn add(a: f64, b: f64, mode: Rounding) -> u64 {
    let sum = a + b;
    // Opposite numbers make -0 on the way down.
    if sum == 0.0 && mode == Rounding::Down && !(a == 0.0 && b == 0.0 && a.is_sign_positive() && b.is_sign_positive()) {
        return (-0.0f64).to_bits();
    }
    moved(sum, lacks(a, b, sum), a.is_finite() && b.is_finite(), mode)
}

fn multiply(a: f64, b: f64, mode: Rounding) -> u64 {
    let product = a * b;
    moved(product, a.mul_add(b, -product), a.is_finite() && b.is_finite(), mode)
}

fn fused(a: f64, b: f64, c: f64, mode: Rounding) -> u64 {
    let nearest = a.mul_add(b, c);
    let finite = a.is_finite() && b.is_finite() && c.is_finite();
    if nearest == 0.0 {
        return if a * b == 0.0 { add(a * b, c, mode) } else { moved(if mode == Rounding::Down { -0.0 } else { 0.0 }, 0.0, finite, mode) };
    }
    let product = a * b;
    let tail = a.mul_add(b, -product);
    let sum = product + c;
    let (rest, ahead) = (lacks(product, c, sum), sum - nearest);
    let small = rest + tail;
    let total = ahead + small;
    moved(nearest, total + (lacks(ahead, small, total) + lacks(rest, tail, small)), finite, mode)
}

fn divide(a: f64, b: f64, mode: Rounding) -> u64 {
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a) * 1f64.copysign(b);
    moved(quotient, rest, a.is_finite() && b != 0.0 && !b.is_nan(), mode)
}

fn root(a: f64, mode: Rounding) -> u64 {
    let root = a.sqrt();
    moved(root, (-root).mul_add(root, a), a.is_finite(), mode)
}

/// An integer of 64 bits, in any mode.
pub(crate) fn from_integer(value: i128, mode: Rounding) -> u64 {
    let nearest = value as f64;
    if mode == Rounding::Nearest {
        return nearest.to_bits();
    }
    moved(nearest, (value - nearest as i128) as f64, true, mode)
}

/// The function of an instruction such as `add.rz.f64`.
pub(crate) fn lanes(name: &str, mode: Rounding) -> Option<Lanes> {
    macro_rules! modes {
        ($make:ident, |$($x:ident),*; $mode:ident| $body:expr) => {
            match mode {
                Rounding::Zero => $make!(|$($x: u64),*| { let $mode = Rounding::Zero; $body }),
                Rounding::Down => $make!(|$($x: u64),*| { let $mode = Rounding::Down; $body }),
                Rounding::Up => $make!(|$($x: u64),*| { let $mode = Rounding::Up; $body }),
                _ => return None,
            }
        };
    }
    Some(match name {
        "add" => modes!(w2, |a, b; mode| add(d(a), d(b), mode)),
        "sub" => modes!(w2, |a, b; mode| add(d(a), -d(b), mode)),
        "mul" => modes!(w2, |a, b; mode| multiply(d(a), d(b), mode)),
        "fma" | "mad" => modes!(w3, |a, b, c; mode| fused(d(a), d(b), d(c), mode)),
        "div" => modes!(w2, |a, b; mode| divide(d(a), d(b), mode)),
        "rcp" => modes!(w1, |a; mode| divide(1.0, d(a), mode)),
        "sqrt" => modes!(w1, |a; mode| root(d(a), mode)),
        _ => return None,
    })
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: the upper 32 bits of the argument to the upper 32 bits of the result.
pub(crate) fn gross(name: &str) -> Option<Lanes> {
    fn of(a: u64, function: impl Fn(f64) -> f64) -> u64 {
        let upper = |value: f64| if value.is_subnormal() { 0f64.copysign(value) } else { d(value.to_bits() & !0xffff_ffff) };
        let value = function(upper(d(a)));
        if value.is_nan() { 0x7fff_ffff_0000_0000 } else { upper(value).to_bits() }
    }
    Some(match name {
        "rcp" => w1!(|a: u64| of(a, |x| 1.0 / x)),
        "rsqrt" => w1!(|a: u64| of(a, |x| 1.0 / x.sqrt())),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Down and up enclose the nearest result by at most one step, and meet where it is exact.
    #[test]
    fn modes_enclose_what_is_exact() {
        let numbers: Vec<f64> = (0..400u32).map(|i| (f64::from(i) * 0.7312).sin() * 10f64.powi(i as i32 % 40 - 20)).collect();
        for (i, &a) in numbers.iter().enumerate() {
            let (b, c) = (numbers[(i * 7 + 3) % 400], numbers[(i * 13 + 5) % 400]);
            if b == 0.0 || a == 0.0 {
                continue;
            }
            let cases: [(f64, &dyn Fn(Rounding) -> u64); 5] = [
                (a + b, &|mode| add(a, b, mode)),
                (a * b, &|mode| multiply(a, b, mode)),
                (a.mul_add(b, c), &|mode| fused(a, b, c, mode)),
                (a / b, &|mode| divide(a, b, mode)),
                (a.abs().sqrt(), &|mode| root(a.abs(), mode)),
            ];
            for (which, (nearest, by)) in cases.iter().enumerate() {
                let [down, up, zero] = [Rounding::Down, Rounding::Up, Rounding::Zero].map(|mode| d(by(mode)));
                assert!(down <= *nearest && *nearest <= up, "{which}: {down} {nearest} {up}");
                assert!(down == up || down.next_up() == up, "{which}: {down} {up}");
                assert_eq!(zero, if *nearest > 0.0 { down } else { up }, "{which}");
            }
        }
        assert_eq!(add(1.0, 1e-30, Rounding::Up), 1f64.next_up().to_bits());
        assert_eq!(add(1.0, -1e-30, Rounding::Zero), 1f64.next_down().to_bits());
        assert_eq!(add(1.0, 1e-30, Rounding::Down), 1f64.to_bits());
        assert_eq!(d(multiply(1e300, 1e300, Rounding::Zero)), f64::MAX);
        assert_eq!(add(1.5, -1.5, Rounding::Down), (-0.0f64).to_bits());
        assert_eq!(from_integer((1 << 53) + 1, Rounding::Up), (9_007_199_254_740_994f64).to_bits());
        assert_eq!(from_integer((1 << 53) + 3, Rounding::Nearest), (9_007_199_254_740_996f64).to_bits());
        assert_eq!(from_integer((1 << 53) + 1, Rounding::Nearest), (9_007_199_254_740_992f64).to_bits());
        assert_eq!(from_integer((1 << 53) + 1, Rounding::Zero), (9_007_199_254_740_992f64).to_bits());
    }
}
