//! Vector instruction sets, found at run time.
//!
//! [`vectorize!`](crate::vectorize) compiles one safe function body three times (baseline, AVX2 + FMA, AVX-512) and picks at the
//! call. The body decides the arithmetic: nothing is re-associated or contracted, so every level gives the same bits, except that
//! `mul_add` is slow below AVX2.

use std::sync::OnceLock;

/// The best instruction set that this machine offers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Whatever the target guarantees.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// [`Level::Avx512`] and its bf16 dot product.
    Avx512Bf16,
}

impl Level {
    /// Name for logs.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512-bf16",
        }
    }
}

/// The machine's level, detected once. `SCMMGPT_SIMD=portable|avx2|avx512` lowers it, for tests and comparisons.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let limit = match std::env::var("SCMMGPT_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            Ok("avx512") => Level::Avx512,
            _ => Level::Avx512Bf16,
        };
        detect().min(limit)
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512, is_x86_feature_detected!("avx512bf16")) {
        (_, true, true) => Level::Avx512Bf16,
        (_, true, false) => Level::Avx512,
        (true, false, _) => Level::Avx2,
        (false, false, _) => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Asks for the cache lines of a slice that will be read or written soon.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(values)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().wrapping_add(line)) };
    }
}

/// Compiles a safe function for every [`Level`] and dispatches at the call; see the module's text.
///
/// At most one type parameter: `vectorize! { /// Sum of products.
/// pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T { .. } }`
#[macro_export]
macro_rules! vectorize {
    ($($(#[$attribute:meta])* $visibility:vis fn $name:ident $(<$generic:ident: $bound:path>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block)*) => { $(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi2,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? { body($($argument),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn avx512 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $output)? { body($($argument),*) }
                match $crate::runtime::simd::level() {
                    $crate::runtime::simd::Level::Portable => {}
                    // SAFETY: the features were detected.
                    $crate::runtime::simd::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    // SAFETY: the features were detected.
                    _ => return unsafe { avx512($($argument),*) },
                }
            }
            body($($argument),*)
        }
    )* };
}
