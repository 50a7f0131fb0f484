//! One figure over its rounds.

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series(Vec<f64>);

impl Series {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The mean of the two in the middle where their number is even.
    pub(super) fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        let upper = *self.0.get(middle)?;
        Some(match self.0.len() % 2 {
            0 => f64::midpoint(self.0[middle - 1], upper),
            _ => upper,
        })
    }

    /// The median, and the smallest and largest where there are several and they differ.
    pub(super) fn shown(&self, decimals: usize) -> String {
        let (Some(median), Some(first), Some(last)) =
            (self.median(), self.0.first(), self.0.last())
        else {
            return "-".to_owned();
        };
        let (low, high) = (number(*first, decimals), number(*last, decimals));
        let median = number(median, decimals);
        if low == high {
            median
        } else {
            format!("{median} ({low} to {high})")
        }
    }
}

/// With a comma between thousands.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text
        .find('.')
        .map_or((&text[..], ""), |dot| text.split_at(dot));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_with_its_spread() {
        assert_eq!(Series::of([3.0, 1.0, 2.0]).shown(0), "2 (1 to 3)");
        assert_eq!(Series::of([1.0, 2.0]).shown(1), "1.5 (1.0 to 2.0)");
        assert_eq!(Series::of([1234.5]).shown(1), "1,234.5");
        assert_eq!(Series::of([]).shown(1), "-");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!(number(-123.456, 2), "-123.46");
        assert_eq!(number(999.6, 0), "1,000");
    }
}
