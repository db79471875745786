//! How traffic is split among groups by the weight that is left of each. Pure arithmetic.
//!
//! The rule is that of Envoy's priority levels, so that its documentation and worked examples apply.

/// The weights of a group's members: the configured sum, and the part of it that is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WeightTotals {
    pub(super) usable: u64,
    pub(super) configured: u64,
}

impl WeightTotals {
    /// Returns the availability in percent, at most 100: the usable share times the overprovisioning
    /// factor (in thousandths). At least 1 if any weight is usable.
    ///
    /// With the default factor of 1.4: 72 usable of 100 are 100 %, 50 are 70 %, 1 is 1 %. In integers,
    /// so that two balancers with the same members agree.
    pub(super) fn availability(self, overprovisioning: u32) -> u32 {
        let whole = 10 * self.configured;
        let available = (u64::from(overprovisioning) * self.usable)
            .checked_div(whole)
            .unwrap_or(0);
        available.clamp(u64::from(self.usable > 0), 100) as u32
    }
}

/// Splits 100 among groups of these availabilities, the preferred first: each takes as much of the rest
/// as it is available. If all together are not enough, the split is in their proportion, rounded by
/// largest remainder. All are zero if no group is available.
///
/// | availabilities | shares |
/// |---|---|
/// | 100, 100 | 100, 0 |
/// | 70, 100 | 70, 30 |
/// | 40, 30 | 57, 43 |
/// | 0, 0 | 0, 0 |
pub(super) fn split(availabilities: &[u32]) -> Vec<u32> {
    let total: u32 = availabilities.iter().sum();
    if total < WHOLE {
        let parts: Vec<u64> = availabilities.iter().map(|&a| u64::from(a)).collect();
        return portion(&parts, WHOLE);
    }
    let mut left = WHOLE;
    availabilities
        .iter()
        .map(|&available| {
            let share = available.min(left);
            left -= share;
            share
        })
        .collect()
}

/// Splits `whole` in proportion to the parts, rounded by largest remainder; of equal remainders the
/// first gets more.
pub(super) fn portion(parts: &[u64], whole: u32) -> Vec<u32> {
    let total: u128 = parts.iter().map(|&p| u128::from(p)).sum();
    if total == 0 {
        return vec![0; parts.len()];
    }
    let scaled = |part: u64| u128::from(part) * u128::from(whole);
    let mut shares: Vec<u32> = parts.iter().map(|&p| (scaled(p) / total) as u32).collect();
    let given: u32 = shares.iter().sum();
    let mut by_rest: Vec<usize> = (0..parts.len()).collect();
    by_rest.sort_by_key(|&i| std::cmp::Reverse(scaled(parts[i]) % total));
    for &i in by_rest.iter().take((whole - given) as usize) {
        shares[i] += 1;
    }
    shares
}

/// The whole traffic, in percent.
pub(super) const WHOLE: u32 = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(usable: &[u64]) -> Vec<u32> {
        let availabilities: Vec<_> = usable
            .iter()
            .map(|&usable| {
                WeightTotals {
                    usable,
                    configured: 100,
                }
                .availability(1_400)
            })
            .collect();
        split(&availabilities)
    }

    #[test]
    fn tiers_overflow_as_in_envoy() {
        for (usable, expected) in [
            (&[100, 100][..], &[100, 0][..]),
            (&[72, 72], &[100, 0]),
            (&[71, 71], &[99, 1]),
            (&[72, 100], &[100, 0]),
            (&[71, 100], &[99, 1]),
            (&[50, 50], &[70, 30]),
            (&[50, 100], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[25, 25], &[50, 50]),
            (&[0, 100], &[0, 100]),
            (&[25, 25, 20], &[36, 36, 28]),
            (&[25, 25, 100], &[35, 35, 30]),
            (&[0, 0], &[0, 0]),
            (&[1], &[100]),
        ] {
            assert_eq!(loads(usable), expected, "{usable:?}");
        }
    }

    #[test]
    fn one_usable_backend_of_very_many_counts() {
        let one = WeightTotals {
            usable: 1,
            configured: 100_000,
        };
        assert_eq!(one.availability(1_400), 1);
        assert_eq!(split(&[1, 100]), [1, 99]);
        assert_eq!(split(&[1, 0]), [100, 0]);
        assert_eq!(WeightTotals::default().availability(1_400), 0);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_only_the_available_have_one(
            usable in prop::collection::vec(0u64..=100, 1..8),
        ) {
            let shares = loads(&usable);
            let total: u32 = shares.iter().sum();
            let any = usable.iter().any(|&u| u > 0);
            prop_assert_eq!(total, if any { 100 } else { 0 });
            for (share, usable) in shares.iter().zip(&usable) {
                prop_assert!(*usable > 0 || *share == 0);
            }
        }

        #[test]
        fn portions_are_exact_or_nearest(parts in prop::collection::vec(0u64..=1_000_000, 1..20)) {
            let total: u64 = parts.iter().sum();
            let shares = portion(&parts, 10_000);
            if total > 0 {
                prop_assert_eq!(shares.iter().sum::<u32>(), 10_000);
                for (&part, &share) in parts.iter().zip(&shares) {
                    let ideal = part as f64 * 10_000.0 / total as f64;
                    prop_assert!((f64::from(share) - ideal).abs() < 1.0);
                }
            }
        }
    }
}
