//! Vectors in four bits for every two coordinates: of sixteen points of the plane the nearest (a product quantiser, Jégou et
//! al. 2011).

use super::super::kernel::lists::{MAX_ENTRY, PLANE};
use super::super::random::Random;

/// Coordinates of a subspace.
const WIDTH: usize = 2;
/// Points of a codebook.
const POINTS: usize = 16;
/// Times that the points of a codebook move to the middle of what is nearest to them.
const ROUNDS: usize = 15;

/// An error along a row counts this many times more than one across it, and codes are chosen anew so many times for that.
const ALONG: f32 = 4.0;
const TURNS: usize = 2;

/// The coordinates of a codebook's points, one coordinate after the other.
type Points = [[f32; POINTS]; WIDTH];

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Codebook {
    dims: usize,
    subspaces: Vec<Points>,
}

/// A query's tables for [`Kernel::scan`](super::super::kernel::Kernel::scan).
#[derive(Default)]
pub(super) struct Tables {
    pub bytes: Vec<u8>,
    products: Vec<[f32; POINTS]>,
    /// An estimate of the inner product, negated, is this and so many units as the sum has.
    pub least: f32,
    pub unit: f32,
}

/// What encoding takes; the codes are left in it.
#[derive(Default)]
pub(super) struct Encoder {
    pub codes: Vec<u8>,
    errors: Vec<Errors>,
}

/// How far each point of a codebook is off, and how far along the direction.
#[derive(Default)]
struct Errors {
    squared: [f32; POINTS],
    along: [f32; POINTS],
}

impl Codebook {
    /// How many [`Codebook::values`] there are.
    pub(super) fn len(dims: usize) -> usize {
        dims.div_ceil(WIDTH) * WIDTH * POINTS
    }

    /// Planes of a block: whole pairs.
    pub(super) fn planes(dims: usize) -> usize {
        dims.div_ceil(WIDTH).next_multiple_of(2)
    }

    /// Of a sample, one vector after the other.
    pub(super) fn learn(sample: &[f32], dims: usize, random: &mut Random) -> Self {
        let count = sample.len() / dims;
        let subspaces = (0..dims.div_ceil(WIDTH)).map(|subspace| {
            let coordinate = |i: usize, j: usize| {
                let at = subspace * WIDTH + j;
                if at < dims { sample[i * dims + at] } else { 0.0 }
            };
            let mut points = Points::default();
            let put = |points: &mut Points, point: usize, i: usize| {
                (0..WIDTH).for_each(|j| points[j][point] = coordinate(i, j));
            };
            (0..POINTS).for_each(|point| put(&mut points, point, random.below(count)));
            for _ in 0..ROUNDS {
                let (mut sums, mut members) = ([[0f64; WIDTH]; POINTS], [0u32; POINTS]);
                for i in 0..count {
                    let own: [f32; WIDTH] = std::array::from_fn(|j| coordinate(i, j));
                    let nearest = nearest(&points, &own);
                    members[nearest] += 1;
                    sums[nearest].iter_mut().zip(own).for_each(|(sum, value)| *sum += f64::from(value));
                }
                for point in 0..POINTS {
                    if members[point] == 0 {
                        put(&mut points, point, random.below(count));
                    } else {
                        let count = f64::from(members[point]);
                        (0..WIDTH).for_each(|j| points[j][point] = (sums[point][j] / count) as f32);
                    }
                }
            }
            points
        });
        Self { dims, subspaces: subspaces.collect() }
    }

    /// None if they are not what [`Codebook::values`] gave.
    pub(super) fn open(values: &[f32], dims: usize) -> Option<Self> {
        let is_whole = values.len() == Self::len(dims) && values.iter().all(|value| value.is_finite());
        let subspaces = values.as_chunks::<POINTS>().0.as_chunks::<WIDTH>().0.to_vec();
        is_whole.then_some(Self { dims, subspaces })
    }

    pub(super) fn dims(&self) -> usize {
        self.dims
    }

    pub(super) fn values(&self) -> &[f32] {
        self.subspaces.as_flattened().as_flattened()
    }

    /// The code of each subspace of a vector, so that what is left has little of the direction, which is of length one: whoever
    /// looks for what lies there comes from there, and an error along it is one of the distance (anisotropic loss, Guo et al.
    /// 2020).
    pub(super) fn encode(&self, vector: &[f32], direction: &[f32], encoder: &mut Encoder) {
        let Encoder { codes, errors } = encoder;
        codes.clear();
        errors.clear();
        let parts = vector[..self.dims].chunks(WIDTH).zip(direction.chunks(WIDTH));
        let mut along = 0.0;
        for (points, (part, direction)) in self.subspaces.iter().zip(parts) {
            let mut of = Errors::default();
            for (coordinates, (value, direction)) in points.iter().zip(part.iter().zip(direction)) {
                for (point, coordinate) in coordinates.iter().enumerate() {
                    let error = value - coordinate;
                    of.squared[point] += error * error;
                    of.along[point] += error * direction;
                }
            }
            let code = least(&of.squared);
            along += of.along[code];
            codes.push(code as u8);
            errors.push(of);
        }
        for _ in 0..TURNS {
            for (code, of) in codes.iter_mut().zip(errors.iter()) {
                let others = along - of.along[usize::from(*code)];
                let losses: [f32; POINTS] = std::array::from_fn(|point| {
                    let along = others + of.along[point];
                    of.squared[point] + ALONG * along * along
                });
                let best = least(&losses);
                *code = best as u8;
                along = others + of.along[best];
            }
        }
    }

    /// Fills the tables of a query.
    pub(super) fn tabulate(&self, query: &[f32], tables: &mut Tables) {
        let Tables { bytes, products, least, unit } = tables;
        products.clear();
        (*least, *unit) = (0.0, 0.0);
        for (points, part) in self.subspaces.iter().zip(query[..self.dims].chunks(WIDTH)) {
            let mut of = [0f32; POINTS];
            for (coordinates, value) in points.iter().zip(part) {
                of.iter_mut().zip(coordinates).for_each(|(product, coordinate)| *product -= value * coordinate);
            }
            let low = of.iter().fold(f32::INFINITY, |low, product| low.min(*product));
            let high = of.iter().fold(f32::NEG_INFINITY, |high, product| high.max(*product));
            of.iter_mut().for_each(|product| *product -= low);
            *least += low;
            *unit = unit.max((high - low) / f32::from(MAX_ENTRY));
            products.push(of);
        }
        let inverse = if *unit > 0.0 { 1.0 / *unit } else { 0.0 };
        bytes.clear();
        bytes.resize(Self::planes(self.dims) * PLANE, 0);
        for (table, of) in bytes.chunks_exact_mut(PLANE).zip(products) {
            let (table, again) = table.split_at_mut(POINTS);
            let entries = of.iter().map(|product| ((product * inverse + 0.5) as u8).min(MAX_ENTRY));
            table.iter_mut().zip(entries).for_each(|(to, entry)| *to = entry);
            again.copy_from_slice(table);
        }
    }
}

/// Which of the points is nearest.
fn nearest(points: &Points, own: &[f32; WIDTH]) -> usize {
    let mut distances = [0f32; POINTS];
    for (coordinates, value) in points.iter().zip(own) {
        for (distance, coordinate) in distances.iter_mut().zip(coordinates) {
            let difference = value - coordinate;
            *distance += difference * difference;
        }
    }
    least(&distances)
}

/// Which is the least, the first of equals. By lanes and without a branch: it is asked for every code of every row.
#[inline]
fn least(values: &[f32; POINTS]) -> usize {
    const LANES: usize = 4;
    let lower = |a: f32, b: f32| if b < a { b } else { a };
    let mut lanes = [f32::INFINITY; LANES];
    for values in values.as_chunks::<LANES>().0 {
        lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane = lower(*lane, *value));
    }
    let least = lanes.into_iter().fold(f32::INFINITY, lower);
    let places =
        values.iter().enumerate().fold(1 << (POINTS - 1), |mask, (i, value)| mask | u32::from(*value <= least) << i);
    places.trailing_zeros() as usize
}
