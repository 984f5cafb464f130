use super::{exp, silu_each, sum_by_sixteen};
use crate::kernel::simd::{Isa, Kernel, Simd, dispatch};

struct Both([f32; 16]);

impl Kernel for Both {
    type Output = ([f32; 16], [f32; 16]);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let mut out = ([0.0; 16], [0.0; 16]);
        for at in (0..16).step_by(S::LANES) {
            // SAFETY: `run`'s contract; 16 is a multiple of every width.
            unsafe {
                let x = S::load(self.0.as_ptr().add(at));
                S::store(out.0.as_mut_ptr().add(at), exp::<S>(x));
                S::store(out.1.as_mut_ptr().add(at), silu_each::<S, 1>([x])[0]);
            }
        }
        out
    }
}

#[test]
fn exponentials_are_close_and_the_same_on_every_set() {
    for step in 0..20_000 {
        let base = -90.0 + step as f32 * 0.009;
        let x: [f32; 16] = std::array::from_fn(|i| base + i as f32 * 5.6e-4);
        // SAFETY: plain Rust.
        let (exps, silus) = unsafe { dispatch(Isa::Portable, Both(x)) };
        for ((x, exp), silu) in x.into_iter().zip(exps).zip(silus) {
            let exact = f64::from(x.clamp(-87.0, 88.0)).exp();
            assert!(
                (f64::from(exp) - exact).abs() <= 1.5e-7 * exact,
                "exp {x}: {exp}"
            );
            let exact = f64::from(x) / (1.0 + f64::from(-x).min(88.0).exp());
            assert!(
                (f64::from(silu) - exact).abs() <= 3.5e-7 * exact.abs(),
                "silu {x}: {silu}"
            );
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // SAFETY: the set is available.
            assert_eq!(unsafe { dispatch(isa, Both(x)) }, (exps, silus), "{isa:?}");
        }
    }
}

#[test]
fn nothing_exact_is_lost() {
    let x = std::array::from_fn(|i| [0.0, f32::NAN, f32::NEG_INFINITY, f32::INFINITY][i % 4]);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        // SAFETY: the set is available.
        let (exps, silus) = unsafe { dispatch(isa, Both(x)) };
        assert_eq!((exps[0], silus[0]), (1.0, 0.0));
        assert!(exps[1].is_nan() && silus[1].is_nan());
        assert!(exps[2] > 0.0 && exps[2] < 1e-37);
        assert!(exps[3] > 1e38 && exps[3].is_finite());
    }
}

#[test]
fn sums_take_every_number() {
    for n in 0..70 {
        let numbers: Vec<f32> = (1..=n).map(|x| x as f32).collect();
        assert_eq!(sum_by_sixteen(&numbers, |x| 2.0 * x), (n * (n + 1)) as f32);
    }
}
