//! Functions over the 32 lanes of a warp, each compiled twice: for any machine, and with AVX2 and FMA where they are found.
//!
//! A lane function computes all lanes; the interpreter keeps those that are active. It must not panic on anything a lane may hold.

/// 32-bit values of a warp.
pub(crate) type L32 = [u32; 32];
/// 64-bit values of a warp.
pub(crate) type L64 = [u64; 32];

/// The bit of each lane in a mask.
const BIT: L32 = {
    let mut bits = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// An array of 32 values by lane. A loop that stands where it is used is compiled with the features of that place; what
/// `std::array::from_fn` makes of it need not be.
macro_rules! each {
    ($lane:ident, $value:expr) => {{
        let mut values = [Default::default(); 32];
        for ($lane, place) in values.iter_mut().enumerate() {
            *place = $value;
        }
        values
    }};
}

/// `a` in the lanes of a mask, else `b`.
#[inline]
pub(crate) fn blend<T: Copy + Default>(mask: u32, a: &[T; 32], b: &[T; 32]) -> [T; 32] {
    each!(lane, if mask & BIT[lane] != 0 { a[lane] } else { b[lane] })
}

/// A lane function by its operands: `N` narrow (32 bits and less), `W` wide; `C` compares.
#[derive(Clone, Copy)]
pub(crate) enum Lanes {
    N1(fn(&L32) -> L32),
    N2(fn(&L32, &L32) -> L32),
    N3(fn(&L32, &L32, &L32) -> L32),
    W1(fn(&L64) -> L64),
    W2(fn(&L64, &L64) -> L64),
    W3(fn(&L64, &L64, &L64) -> L64),
    C32(fn(&L32, &L32) -> u32),
    C64(fn(&L64, &L64) -> u32),
}

/// Whether lane functions may use AVX2 and FMA.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("bmi2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Two compilations of `fn($argument: $type, ..) -> $output $body`; the value is a plain function pointer to the better one.
macro_rules! twice {
    (($($argument:ident: $type:ty),*) -> $output:ty $body:block) => {{
        #[inline(always)]
        fn body($($argument: $type),*) -> $output $body
        fn plain($($argument: $type),*) -> $output {
            body($($argument),*)
        }
        #[cfg(target_arch = "x86_64")]
        fn best($($argument: $type),*) -> $output {
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
            fn avx2($($argument: $type),*) -> $output {
                body($($argument),*)
            }
            // SAFETY: taken only where `has_avx2` has found the features.
            unsafe { avx2($($argument),*) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        use plain as best;
        let chosen: fn($($type),*) -> $output = if $crate::lanes::has_avx2() { best } else { plain };
        chosen
    }};
}

/// Lane functions from scalar ones: `n2!(u32::wrapping_add)`, `w1!(..)`, `c32!(|a, b| ..)`.
macro_rules! n1 {
    ($f:expr) => {
        $crate::lanes::Lanes::N1(twice!((a: &$crate::lanes::L32) -> $crate::lanes::L32 {
            let f = $f;
            each!(lane, f(a[lane]))
        }))
    };
}
macro_rules! n2 {
    ($f:expr) => {
        $crate::lanes::Lanes::N2(twice!((a: &$crate::lanes::L32, b: &$crate::lanes::L32) -> $crate::lanes::L32 {
            let f = $f;
            each!(lane, f(a[lane], b[lane]))
        }))
    };
}
macro_rules! n3 {
    ($f:expr) => {
        $crate::lanes::Lanes::N3(twice!((a: &$crate::lanes::L32, b: &$crate::lanes::L32, c: &$crate::lanes::L32) -> $crate::lanes::L32 {
            let f = $f;
            each!(lane, f(a[lane], b[lane], c[lane]))
        }))
    };
}
macro_rules! w1 {
    ($f:expr) => {
        $crate::lanes::Lanes::W1(twice!((a: &$crate::lanes::L64) -> $crate::lanes::L64 {
            let f = $f;
            each!(lane, f(a[lane]))
        }))
    };
}
macro_rules! w2 {
    ($f:expr) => {
        $crate::lanes::Lanes::W2(twice!((a: &$crate::lanes::L64, b: &$crate::lanes::L64) -> $crate::lanes::L64 {
            let f = $f;
            each!(lane, f(a[lane], b[lane]))
        }))
    };
}
macro_rules! w3 {
    ($f:expr) => {
        $crate::lanes::Lanes::W3(twice!((a: &$crate::lanes::L64, b: &$crate::lanes::L64, c: &$crate::lanes::L64) -> $crate::lanes::L64 {
            let f = $f;
            each!(lane, f(a[lane], b[lane], c[lane]))
        }))
    };
}
macro_rules! c32 {
    ($f:expr) => {
        $crate::lanes::Lanes::C32(twice!((a: &$crate::lanes::L32, b: &$crate::lanes::L32) -> u32 {
            let f = $f;
            (0..32).fold(0, |mask, lane| mask | (u32::from(f(a[lane], b[lane])) << lane))
        }))
    };
}
macro_rules! c64 {
    ($f:expr) => {
        $crate::lanes::Lanes::C64(twice!((a: &$crate::lanes::L64, b: &$crate::lanes::L64) -> u32 {
            let f = $f;
            (0..32).fold(0, |mask, lane| mask | (u32::from(f(a[lane], b[lane])) << lane))
        }))
    };
}
