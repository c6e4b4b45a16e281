//! The forms in which the values of rows are kept in full precision.
//!
//! Many vectors never had 32 bits a value: pixels and integer embeddings have eight, models that run in half precision
//! sixteen. A file takes the narrowest form that holds every value of all of its rows to the last bit, so what is read
//! back, and every score, is what it would be of floats, for a quarter or half of the bytes.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// How a value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Floats = 0,
    /// IEEE 754 binary16.
    Halves = 1,
    /// Whole numbers from -128 to 127.
    Signed = 2,
    /// Whole numbers from 0 to 255.
    Unsigned = 3,
}

impl Form {
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Floats, Self::Halves, Self::Signed, Self::Unsigned].into_iter().find(|form| *form as u32 == number)
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::Floats => size_of::<f32>(),
            Self::Halves => size_of::<f16>(),
            Self::Signed | Self::Unsigned => size_of::<u8>(),
        }
    }

    /// Appends a row's bytes. False if some value is not held to the last bit; what was appended means nothing then.
    pub fn pack(self, values: &[f32], bytes: &mut Vec<u8>) -> bool {
        match self {
            Self::Floats => bytes.extend_from_slice(bytemuck::cast_slice(values)),
            Self::Halves => {
                let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
                bytes.extend_from_slice(bytemuck::cast_slice(&halves));
            }
            Self::Signed => bytes.extend(values.iter().map(|value| (*value as i8) as u8)),
            Self::Unsigned => bytes.extend(values.iter().map(|value| *value as u8)),
        }
        self.holds(values)
    }

    /// Whether it holds all of these to the last bit: 0 and -0 are two values.
    pub fn holds(self, values: &[f32]) -> bool {
        let is_kept = |value: &f32, kept: f32| value.to_bits() == kept.to_bits();
        match self {
            Self::Floats => true,
            Self::Halves => values.iter().all(|value| is_kept(value, f16::from_f32(*value).to_f32())),
            Self::Signed => values.iter().all(|value| is_kept(value, f32::from(*value as i8))),
            Self::Unsigned => values.iter().all(|value| is_kept(value, f32::from(*value as u8))),
        }
    }
}

/// Finds the narrowest form that holds all rows.
#[derive(Clone, Copy, Debug)]
pub struct Fitting {
    unsigned: bool,
    signed: bool,
    halves: bool,
}

impl Default for Fitting {
    fn default() -> Self {
        Self { unsigned: true, signed: true, halves: true }
    }
}

impl Fitting {
    /// One more row.
    pub fn take(&mut self, values: &[f32]) {
        self.unsigned = self.unsigned && Form::Unsigned.holds(values);
        self.signed = self.signed && Form::Signed.holds(values);
        // Halves hold what bytes of either kind do, so rows need not be looked at for both.
        if !self.unsigned && !self.signed {
            self.halves = self.halves && Form::Halves.holds(values);
        }
    }

    /// More rows, of which nothing is known but that this form holds them.
    pub fn take_all(&mut self, form: Form) {
        self.unsigned &= form == Form::Unsigned;
        self.signed &= form == Form::Signed;
        self.halves &= form != Form::Floats;
    }

    pub fn form(&self) -> Form {
        match self {
            Self { unsigned: true, .. } => Form::Unsigned,
            Self { signed: true, .. } => Form::Signed,
            Self { halves: true, .. } => Form::Halves,
            _ => Form::Floats,
        }
    }
}

/// The values of a row, where they are.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    Floats(&'a [f32]),
    Halves(&'a [f16]),
    Signed(&'a [i8]),
    Unsigned(&'a [u8]),
}

impl<'a> Values<'a> {
    /// # Panics
    /// If the bytes are not whole values, or not where such values may be.
    #[inline]
    pub fn of(form: Form, bytes: &'a [u8]) -> Self {
        match form {
            Form::Floats => Self::Floats(bytemuck::cast_slice(bytes)),
            Form::Halves => Self::Halves(bytemuck::cast_slice(bytes)),
            Form::Signed => Self::Signed(bytemuck::cast_slice(bytes)),
            Form::Unsigned => Self::Unsigned(bytes),
        }
    }

    /// Writes them as floats.
    ///
    /// # Panics
    /// If there is not room for just as many.
    pub fn read(self, into: &mut [f32]) {
        assert_eq!(into.len(), self.len(), "room for a row");
        match self {
            Self::Floats(values) => into.copy_from_slice(values),
            Self::Halves(values) => values.convert_to_f32_slice(into),
            Self::Signed(values) => into.iter_mut().zip(values).for_each(|(to, value)| *to = f32::from(*value)),
            Self::Unsigned(values) => into.iter_mut().zip(values).for_each(|(to, value)| *to = f32::from(*value)),
        }
    }

    pub fn to_vec(self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.read(&mut values);
        values
    }

    pub fn len(self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Halves(values) => values.len(),
            Self::Signed(values) => values.len(),
            Self::Unsigned(values) => values.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Floats(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Values<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::Floats(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(rows: &[&[f32]]) -> Form {
        let mut fitting = Fitting::default();
        rows.iter().for_each(|row| fitting.take(row));
        fitting.form()
    }

    #[test]
    fn the_narrowest_form_that_loses_nothing_is_taken() {
        assert_eq!(form(&[&[0.0, 255.0], &[7.0, 1.0]]), Form::Unsigned);
        assert_eq!(form(&[&[-128.0, 127.0], &[7.0, 1.0]]), Form::Signed);
        assert_eq!(form(&[&[-128.0, 127.0], &[200.0, 1.0]]), Form::Halves, "neither kind of bytes holds both");
        assert_eq!(form(&[&[0.5, -65_504.0], &[2f32.powi(-24), 1.0]]), Form::Halves);
        assert_eq!(form(&[&[-0.0, 3.0]]), Form::Halves, "0 and -0 are two values");
        for other in [0.1, 65_520.0, 2f32.powi(-25), 2_049.0, f32::MAX, f32::MIN_POSITIVE] {
            assert_eq!(form(&[&[1.0, 2.0], &[other, 3.0]]), Form::Floats, "{other}");
        }
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            (0u8..=255).prop_map(f32::from),
            (-128i8..=127).prop_map(f32::from),
            any::<u16>()
                .prop_map(|bits| f16::from_bits(bits).to_f32())
                .prop_filter("finite", |value| value.is_finite()),
            -1e6f32..1e6,
        ]
    }

    proptest! {
        #[test]
        fn what_was_packed_is_read_back_to_the_last_bit(
            rows in prop::collection::vec(prop::collection::vec(value(), 5), 1..6),
            kinds in 0usize..4,
        ) {
            // Often of one kind, or all would be floats.
            let narrow = |value: &f32| match kinds {
                0 => f32::from(*value as u8),
                1 => f32::from(*value as i8),
                2 => f16::from_f32(value.clamp(-65_504.0, 65_504.0)).to_f32(),
                _ => *value,
            };
            let rows: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(narrow).collect()).collect();
            let mut fitting = Fitting::default();
            rows.iter().for_each(|row| fitting.take(row));
            let form = fitting.form();
            for row in &rows {
                let mut bytes = Vec::new();
                prop_assert!(form.pack(row, &mut bytes));
                // At an address where such values may be.
                let mut aligned = vec![0u32; bytes.len().div_ceil(4)];
                let aligned = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut aligned)[..bytes.len()];
                aligned.copy_from_slice(&bytes);
                let read = Values::of(form, aligned).to_vec();
                prop_assert_eq!(bytemuck::cast_slice::<f32, u32>(&read), bytemuck::cast_slice::<f32, u32>(row));
            }
            let mut merged = Fitting::default();
            merged.take_all(form);
            prop_assert_eq!(merged.form(), form);
        }
    }
}
