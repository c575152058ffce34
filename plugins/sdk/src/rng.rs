//! Randomness that replays: the seed is in the request, so the same question
//! gets the same answer on any machine.

use crate::types::Context;

/// Steele, Lea and Flood's `SplitMix64`: small, fast, good enough to spread names
/// and break ties. Nothing secret must ever hang on it.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator of this question, from `context.seed`.
    pub fn of(context: &Context) -> Self {
        Self::new(context.seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0. Each is equally likely but
    /// for an error of 2⁻⁶⁴ × `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u32::try_from(wide >> 64).unwrap_or(0)
    }

    /// `length` characters of `alphabet`.
    pub fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        let size = u32::try_from(alphabet.len()).unwrap_or(u32::MAX);
        (0..length).filter_map(|_| alphabet.get(self.below(size) as usize)).map(|byte| char::from(*byte)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_stream_is_splitmix64() {
        // The reference values of the authors' C code for seed 1234567.
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn text_uses_the_whole_alphabet_and_nothing_else() {
        let text = Rng::new(7).text(b"abc", 1000);
        assert_eq!(text.len(), 1000);
        for letter in ['a', 'b', 'c'] {
            let share = text.chars().filter(|c| *c == letter).count();
            assert!((250..420).contains(&share), "{letter}: {share}");
        }
        assert_eq!(Rng::new(7).text(b"", 5), "");
    }
}
