//! `printf` as C formats: what kernels print is made here, from a format and a reader of its arguments.

use crate::error::Fault;

/// What an argument is: 4 bytes, or 8 for everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Int,
    Long,
    Double,
    Text,
    Pointer,
}

/// `%[flags][width][.precision]` of a conversion.
#[derive(Clone, Copy, Debug, Default)]
struct Style {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Widths and precisions above this are cut down to it.
const WIDEST: usize = 1024;

/// Bits of an argument, and its bytes if it is a string.
pub(crate) type Reader<'a> = &'a mut dyn FnMut(Value) -> Result<(u64, Vec<u8>), Fault>;

/// The text of a format, and how many arguments it took.
pub(crate) fn format(text: &[u8], read: Reader<'_>) -> Result<(Vec<u8>, u32), Fault> {
    let (mut out, mut count, mut at) = (Vec::new(), 0, 0);
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let start = at - 1;
        let mut argument = |value: Value| {
            count += 1;
            read(value)
        };
        let mut style = Style::default();
        while let Some(flag) = text.get(at) {
            match flag {
                b'-' => style.left = true,
                b'+' => style.plus = true,
                b' ' => style.space = true,
                b'#' => style.alternate = true,
                b'0' => style.zero = true,
                _ => break,
            }
            at += 1;
        }
        let mut number = |at: &mut usize| -> Result<i64, Fault> {
            if text.get(*at) == Some(&b'*') {
                *at += 1;
                return Ok(i64::from(argument(Value::Int)?.0 as u32 as i32));
            }
            let mut number = 0;
            while let Some(digit) = text.get(*at).filter(|byte| byte.is_ascii_digit()) {
                number = (10 * number + i64::from(digit - b'0')).min(WIDEST as i64);
                *at += 1;
            }
            Ok(number)
        };
        let width = number(&mut at)?;
        style.left |= width < 0;
        style.width = width.unsigned_abs().min(WIDEST as u64) as usize;
        if text.get(at) == Some(&b'.') {
            at += 1;
            // A negative precision is none.
            style.precision = usize::try_from(number(&mut at)?).ok().map(|precision| precision.min(WIDEST));
        }
        let sizes = at;
        while text.get(at).is_some_and(|byte| b"hlLqjzt".contains(byte)) {
            at += 1;
        }
        let long = text[sizes..at].iter().any(|byte| b"lqjzt".contains(byte));
        let short = text[sizes..at].iter().filter(|byte| **byte == b'h').count();
        let Some(&conversion) = text.get(at) else {
            out.extend(&text[start..]);
            break;
        };
        at += 1;
        let value = if long { Value::Long } else { Value::Int };
        match conversion {
            b'%' => out.push(b'%'),
            b'd' | b'i' => {
                let bits = argument(value)?.0;
                let number = match (long, short) {
                    (true, _) => bits as i64,
                    (_, 0) => i64::from(bits as u32 as i32),
                    (_, 1) => i64::from(bits as u16 as i16),
                    _ => i64::from(bits as u8 as i8),
                };
                integer(&mut out, style, number < 0, "", &number.unsigned_abs().to_string());
            }
            b'u' | b'o' | b'x' | b'X' => {
                let bits = argument(value)?.0;
                let bits = match (long, short) {
                    (true, _) => bits,
                    (_, 0) => bits & 0xffff_ffff,
                    (_, 1) => bits & 0xffff,
                    _ => bits & 0xff,
                };
                let style = Style { plus: false, space: false, ..style };
                let prefixed = style.alternate && bits != 0;
                match conversion {
                    b'u' => integer(&mut out, style, false, "", &bits.to_string()),
                    b'o' => integer(&mut out, style, false, if prefixed { "0" } else { "" }, &format!("{bits:o}")),
                    b'x' => integer(&mut out, style, false, if prefixed { "0x" } else { "" }, &format!("{bits:x}")),
                    _ => integer(&mut out, style, false, if prefixed { "0X" } else { "" }, &format!("{bits:X}")),
                }
            }
            b'c' => pad(&mut out, style, &[argument(Value::Int)?.0 as u8]),
            b's' => {
                let (address, bytes) = argument(Value::Text)?;
                let bytes = if address == 0 { b"(null)".to_vec() } else { bytes };
                pad(&mut out, style, &bytes[..style.precision.unwrap_or(bytes.len()).min(bytes.len())]);
            }
            b'p' => match argument(Value::Pointer)?.0 {
                0 => pad(&mut out, style, b"(nil)"),
                address => pad(&mut out, style, format!("{address:#x}").as_bytes()),
            },
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
                float(&mut out, style, f64::from_bits(argument(Value::Double)?.0), conversion);
            }
            // What no one knows is printed as it stands.
            _ => out.extend(&text[start..at]),
        }
    }
    Ok((out, count))
}

fn pad(out: &mut Vec<u8>, style: Style, text: &[u8]) {
    let missing = style.width.saturating_sub(text.len());
    if !style.left {
        out.resize(out.len() + missing, b' ');
    }
    out.extend(text);
    if style.left {
        out.resize(out.len() + missing, b' ');
    }
}

/// A sign or prefix, zeros up to the width if that is asked for, and digits.
fn number(out: &mut Vec<u8>, style: Style, sign: &str, zeros: bool, digits: &str) {
    let missing = if zeros && !style.left { style.width.saturating_sub(sign.len() + digits.len()) } else { 0 };
    pad(out, style, format!("{sign}{}{digits}", "0".repeat(missing)).as_bytes());
}

fn sign(style: Style, negative: bool) -> &'static str {
    match (negative, style.plus, style.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (.., true) => " ",
        _ => "",
    }
}

fn integer(out: &mut Vec<u8>, style: Style, negative: bool, prefix: &str, digits: &str) {
    let least = style.precision.unwrap_or(1);
    let digits = if least == 0 && digits == "0" { "" } else { digits };
    let missing = least.saturating_sub(digits.len() + usize::from(prefix == "0"));
    let digits = format!("{}{digits}", "0".repeat(missing));
    number(out, style, &format!("{}{prefix}", sign(style, negative)), style.zero && style.precision.is_none(), &digits);
}

fn float(out: &mut Vec<u8>, style: Style, value: f64, conversion: u8) {
    let magnitude = value.abs();
    let upper = conversion.is_ascii_uppercase();
    let cased = |text: String| if upper { text.to_uppercase() } else { text };
    let mut sign = sign(style, value.is_sign_negative()).to_string();
    if !value.is_finite() {
        let name = if value.is_nan() { "nan" } else { "inf" };
        return number(out, style, &sign, false, &cased(name.into()));
    }
    let precision = style.precision.unwrap_or(6);
    let digits = match conversion.to_ascii_lowercase() {
        b'f' => fixed(magnitude, precision, style.alternate),
        b'e' => scientific(magnitude, precision, style.alternate),
        b'g' => general(magnitude, precision.max(1), style.alternate),
        _ => {
            sign += if upper { "0X" } else { "0x" };
            hexadecimal(magnitude, style)
        }
    };
    number(out, style, &sign, style.zero, &cased(digits));
}

fn fixed(value: f64, precision: usize, point: bool) -> String {
    let digits = format!("{value:.precision$}");
    if point && precision == 0 { digits + "." } else { digits }
}

/// The digits and the exponent of a number with `precision` digits behind the point.
fn parts(value: f64, precision: usize) -> (String, i32) {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (digits.to_string(), exponent.parse().unwrap_or(0))
}

fn scientific(value: f64, precision: usize, point: bool) -> String {
    let (digits, exponent) = parts(value, precision);
    let point = if point && precision == 0 { "." } else { "" };
    format!("{digits}{point}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(value: f64, precision: usize, keep: bool) -> String {
    let exponent = parts(value, precision - 1).1;
    let small = exponent >= -4 && i64::from(exponent) < precision as i64;
    let text = match small {
        true => fixed(value, (precision as i64 - 1 - i64::from(exponent)).max(0) as usize, keep),
        false => scientific(value, precision - 1, keep),
    };
    if keep {
        return text;
    }
    let (digits, tail) = text.split_at(text.find('e').unwrap_or(text.len()));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits}{tail}")
}

/// What follows `0x`: a digit, the fraction's digits, and the power of two.
fn hexadecimal(value: f64, style: Style) -> String {
    let bits = value.to_bits();
    let (biased, mut fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
    let mut first = u64::from(biased != 0);
    let exponent = if bits == 0 { 0 } else { biased.max(1) - 1023 };
    let kept = style.precision.unwrap_or(13).min(13);
    let dropped = 52 - 4 * kept as u32;
    if dropped > 0 {
        // To the nearest, ties to even, as the digits before say.
        let whole = first << 52 | fraction;
        let (unit, half) = (1u64 << dropped, 1u64 << (dropped - 1));
        let (low, mut high) = (whole & (unit - 1), whole >> dropped);
        high += u64::from(low > half || (low == half && high & 1 == 1));
        (first, fraction) = ((high << dropped) >> 52, (high << dropped) & ((1 << 52) - 1));
    }
    let all = format!("{fraction:013x}");
    let digits = match style.precision {
        None => all.trim_end_matches('0').to_string(),
        Some(precision) => format!("{}{}", &all[..kept], "0".repeat(precision - kept)),
    };
    let point = if digits.is_empty() && !style.alternate { "" } else { "." };
    format!("{first}{point}{digits}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, values: &[u64], expected: &str) {
        let mut next = values.iter();
        let mut read = |value: Value| {
            let bits = *next.next().unwrap();
            Ok((bits, if value == Value::Text { b"words".to_vec() } else { Vec::new() }))
        };
        let (printed, count) = format(text.as_bytes(), &mut read).unwrap();
        assert_eq!(String::from_utf8(printed).unwrap(), expected);
        assert_eq!(count as usize, values.len());
    }

    #[test]
    fn integers_as_c_prints_them() {
        check("%d|%5d|%-5d|%05d|%+d|% d|%.3d", &[7; 7], "7|    7|7    |00007|+7| 7|007");
        check(
            "%d %ld %lld %hd %hhu",
            &[u64::from(u32::MAX), u64::MAX, i64::MIN as u64, 0x1_8000, 0x1ff],
            "-1 -1 -9223372036854775808 -32768 255",
        );
        check("%u %x %X %#x %#o %o %08x", &[u64::from(u32::MAX), 255, 255, 255, 8, 8, 0xbeef], "4294967295 ff FF 0xff 010 10 0000beef");
        check("%*d %-*d|%.*f", &[4, 1, 3, 2, 1, 1.26f64.to_bits()], "   1 2  |1.3");
        check("%c%c%% %s|%8s|%-8.2s|", &[72, 105, 1, 1, 1], "Hi% words|   words|wo      |");
        check("%s %p %p", &[0, 0, 0x7f10], "(null) (nil) 0x7f10");
        check("100%% %y %", &[], "100% %y %");
    }

    #[test]
    fn floats_as_c_prints_them() {
        let pi = std::f64::consts::PI.to_bits();
        check("%f %.2f %8.3f %-8.1f| %08.2f %+.0f %#.0f", &[pi; 7], "3.141593 3.14    3.142 3.1     | 00003.14 +3 3.");
        check("%e %.0e %E %.3e", &[pi, pi, 1.5e-7f64.to_bits(), 1e300f64.to_bits()], "3.141593e+00 3e+00 1.500000E-07 1.000e+300");
        let many = [1e5, 1e6, 1e-4, 1e-5, 0.1, 123_456_789.0, 100.0, 0.0].map(f64::to_bits);
        check("%g %g %g %g %g %g %g %g", &many, "100000 1e+06 0.0001 1e-05 0.1 1.23457e+08 100 0");
        check("%#g %G %.3g %.10g", &[1f64.to_bits(), 1e-10f64.to_bits(), pi, pi], "1.00000 1E-10 3.14 3.141592654");
        check("%f %5.1f %F", &[f64::INFINITY.to_bits(), f64::NAN.to_bits(), f64::NEG_INFINITY.to_bits()], "inf   nan -INF");
        check(
            "%a %a %A %.1a %a %.2a",
            &[1f64.to_bits(), 0, 0.15625f64.to_bits(), pi, 1, 1f64.to_bits()],
            "0x1p+0 0x0p+0 0X1.4P-3 0x1.9p+1 0x0.0000000000001p-1022 0x1.00p+0",
        );
    }
}
