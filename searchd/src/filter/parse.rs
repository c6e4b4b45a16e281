//! From JSON to a filter. Every error names its place by a JSON pointer.

use serde_json::{Map, Value};

use super::{Comparison, Filter, MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_VALUES, Path, Scalar, Test};
use crate::engine::settings::Violation;

/// Reads a filter. `pointer` is where it stands in the request, `/filter` say.
pub fn parse(json: &[u8], pointer: &str) -> Result<Filter, Violation> {
    if json.len() > MAX_BYTES {
        return Err(Violation::new(pointer, format!("has {} bytes, at most {MAX_BYTES} are allowed", json.len())));
    }
    let value: Value =
        serde_json::from_slice(json).map_err(|error| Violation::new(pointer, format!("is not JSON: {error}")))?;
    let mut parser = Parser { nodes: 0 };
    parser.filter(&value, &Place { pointer: pointer.to_owned(), depth: 0 })
}

struct Parser {
    nodes: usize,
}

struct Place {
    pointer: String,
    depth: usize,
}

impl Place {
    fn key(&self, key: &str) -> Self {
        let escaped = key.replace('~', "~0").replace('/', "~1");
        Self { pointer: format!("{}/{escaped}", self.pointer), depth: self.depth + 1 }
    }

    fn wrong(&self, description: impl Into<String>) -> Violation {
        Violation::new(self.pointer.clone(), description)
    }
}

impl Parser {
    fn filter(&mut self, value: &Value, place: &Place) -> Result<Filter, Violation> {
        self.count(place)?;
        let Value::Object(object) = value else { return Err(place.wrong("must be an object")) };
        let mut all = Vec::with_capacity(object.len());
        for (key, operand) in object {
            let place = place.key(key);
            all.push(match key.as_str() {
                "$and" => Filter::And(self.members(operand, &place)?),
                "$or" => Filter::Or(self.members(operand, &place)?),
                "$not" => Filter::Not(Box::new(self.filter(operand, &place)?)),
                operator if operator.starts_with('$') => {
                    return Err(place.wrong("is not an operator; here may stand a field, $and, $or or $not"));
                }
                field => self.field(&path(field, &place)?, operand, &place)?,
            });
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
    }

    fn members(&mut self, value: &Value, place: &Place) -> Result<Vec<Filter>, Violation> {
        let Value::Array(members) = value else { return Err(place.wrong("must be an array of filters")) };
        if members.is_empty() {
            return Err(place.wrong("must hold at least one filter"));
        }
        members.iter().enumerate().map(|(i, member)| self.filter(member, &place.key(&i.to_string()))).collect()
    }

    fn field(&mut self, path: &Path, value: &Value, place: &Place) -> Result<Filter, Violation> {
        self.count(place)?;
        match value {
            Value::Object(operators) => self.operators(path, operators, place),
            value => Ok(Filter::Field { path: path.clone(), test: Test::Equals(scalar(value, place)?) }),
        }
    }

    fn operators(&mut self, path: &Path, operators: &Map<String, Value>, place: &Place) -> Result<Filter, Violation> {
        if operators.is_empty() {
            return Err(place.wrong("must hold at least one operator"));
        }
        let mut all = Vec::with_capacity(operators.len());
        for (operator, operand) in operators {
            let place = place.key(operator);
            self.count(&place)?;
            let test = |test| Filter::Field { path: path.clone(), test };
            let not = |filter| Filter::Not(Box::new(filter));
            let compares = |comparison| ordered(operand, &place).map(|bound| test(Test::Compares(comparison, bound)));
            all.push(match operator.as_str() {
                "$eq" => test(Test::Equals(scalar(operand, &place)?)),
                "$ne" => not(test(Test::Equals(scalar(operand, &place)?))),
                "$gt" => compares(Comparison::Greater)?,
                "$gte" => compares(Comparison::GreaterOrEqual)?,
                "$lt" => compares(Comparison::Less)?,
                "$lte" => compares(Comparison::LessOrEqual)?,
                "$in" => test(Test::In(scalars(operand, &place)?)),
                "$nin" => not(test(Test::In(scalars(operand, &place)?))),
                "$exists" => match operand {
                    Value::Bool(true) => test(Test::Exists),
                    Value::Bool(false) => not(test(Test::Exists)),
                    _ => return Err(place.wrong("must be true or false")),
                },
                "$not" => not(self.field(path, operand, &place)?),
                _ => {
                    let known = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $not";
                    return Err(place.wrong(format!("is not an operator; known are {known}")));
                }
            });
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
    }

    fn count(&mut self, place: &Place) -> Result<(), Violation> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(place.wrong(format!("is one operator too many, at most {MAX_NODES} are allowed")));
        }
        // A level of a filter is a key and what stands under it.
        if place.depth > MAX_DEPTH * 2 {
            return Err(place.wrong(format!("is nested too deep, at most {MAX_DEPTH} levels are allowed")));
        }
        Ok(())
    }
}

fn path(field: &str, place: &Place) -> Result<Path, Violation> {
    let keys: Vec<_> = field.split('.').map(str::to_owned).collect();
    if keys.len() > MAX_DEPTH {
        return Err(place.wrong(format!("reaches {} levels deep, at most {MAX_DEPTH} are allowed", keys.len())));
    }
    Ok(Path(keys))
}

fn scalar(value: &Value, place: &Place) -> Result<Scalar, Violation> {
    match value {
        Value::Null => Ok(Scalar::Null),
        Value::Bool(value) => Ok(Scalar::Bool(*value)),
        Value::Number(number) => Ok(Scalar::Number(number.clone())),
        Value::String(text) => Ok(Scalar::String(text.clone())),
        Value::Array(_) => {
            Err(place.wrong("must be a string, a number, a boolean or null; for several values use $in"))
        }
        Value::Object(_) => {
            Err(place.wrong("must be a string, a number, a boolean or null; reach into objects with a.b"))
        }
    }
}

fn ordered(value: &Value, place: &Place) -> Result<Scalar, Violation> {
    match scalar(value, place) {
        Ok(bound @ (Scalar::Number(_) | Scalar::String(_))) => Ok(bound),
        _ => Err(place.wrong("must be a number or a string")),
    }
}

fn scalars(value: &Value, place: &Place) -> Result<Vec<Scalar>, Violation> {
    let Value::Array(values) = value else { return Err(place.wrong("must be an array")) };
    if values.len() > MAX_VALUES {
        return Err(place.wrong(format!("has {} values, at most {MAX_VALUES} are allowed", values.len())));
    }
    values.iter().enumerate().map(|(i, value)| scalar(value, &place.key(&i.to_string()))).collect()
}
