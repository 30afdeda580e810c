//! Expert loads over time, thinned while they come.

/// Cells of all heat maps together; each is one character of the page.
const CELLS: usize = 240_000;
const MOST_COLUMNS: usize = 160;

/// Digits of a cell: `A` no token at all, `B` an eighth of the mean or less, `g` the mean, `/` eight
/// times the mean or more, in even steps of the logarithm between.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Loads `[column][MoE layer][expert]`; a column stands for one recorded step or for several.
#[derive(Debug, Default)]
pub(super) struct Load {
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    step: u64,
    load: Vec<Vec<f32>>,
}

impl Load {
    /// Adds the loads of a step. A model does not change its shape; a record of another shape is left out.
    pub(super) fn push(&mut self, step: u64, load: Vec<Vec<f32>>) {
        let cells: usize = load.iter().map(Vec::len).sum();
        if cells == 0 || self.columns.first().is_some_and(|first| shape(&first.load) != shape(&load)) {
            return;
        }
        self.columns.push(Column { step, load });
        // At most twice what is shown, so memory stays bounded and pairs stay neighbours.
        if self.columns.len() > 2 * self.most_columns() {
            self.merge_pairs();
        }
    }

    /// Merges until the heat maps fit into the page.
    pub(super) fn fit(&mut self) {
        while self.columns.len() > self.most_columns() {
            self.merge_pairs();
        }
    }

    /// Steps of the columns.
    pub(super) fn steps(&self) -> Vec<u64> {
        self.columns.iter().map(|column| column.step).collect()
    }

    /// Experts of every layer that is shown, and its cells `[expert][column]` as digits.
    pub(super) fn layers(&self) -> Vec<(usize, String)> {
        let Some(first) = self.columns.first() else { return Vec::new() };
        let mut room = CELLS.max(self.columns.len());
        let mut layers = Vec::new();
        for (layer, experts) in first.load.iter().map(Vec::len).enumerate() {
            let cells = experts * self.columns.len();
            // Only a model of more experts than there are cells gets here.
            if cells > room {
                break;
            }
            room -= cells;
            layers.push((experts, self.digits(layer, experts)));
        }
        layers
    }

    fn digits(&self, layer: usize, experts: usize) -> String {
        (0..experts)
            .flat_map(|expert| self.columns.iter().map(move |column| column.load[layer][expert]))
            .map(|share| digit(f64::from(share) * experts as f64))
            .collect()
    }

    fn most_columns(&self) -> usize {
        let cells: usize = self.columns.first().map_or(0, |first| first.load.iter().map(Vec::len).sum());
        (CELLS / cells.max(1)).clamp(1, MOST_COLUMNS)
    }

    fn merge_pairs(&mut self) {
        let mut merged = Vec::with_capacity(self.columns.len().div_ceil(2));
        let mut columns = std::mem::take(&mut self.columns).into_iter();
        while let Some(mut column) = columns.next() {
            if let Some(next) = columns.next() {
                column.step = next.step;
                let pairs = column.load.iter_mut().flatten().zip(next.load.into_iter().flatten());
                pairs.for_each(|(mine, other)| *mine = (*mine + other) / 2.0);
            }
            merged.push(column);
        }
        self.columns = merged;
    }
}

fn shape(load: &[Vec<f32>]) -> Vec<usize> {
    load.iter().map(Vec::len).collect()
}

/// Digit of a load in multiples of the mean; `.` if it is no number.
fn digit(multiple: f64) -> char {
    if multiple.is_nan() {
        return '.';
    }
    if multiple <= 0.0 {
        return char::from(DIGITS[0]);
    }
    let level = 32.0 + (31.0 * (multiple.log2() / 3.0).clamp(-1.0, 1.0)).round();
    char::from(DIGITS[level as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_even_in_the_logarithm() {
        let rows = [
            (0.0, 'A'),
            (0.001, 'B'),
            (0.125, 'B'),
            (1.0, 'g'),
            (8.0, '/'),
            (1e9, '/'),
            (f64::INFINITY, '/'),
            (-1.0, 'A'),
            (f64::NAN, '.'),
        ];
        for (multiple, expected) in rows {
            assert_eq!(digit(multiple), expected, "{multiple}");
        }
    }

    #[test]
    fn long_runs_and_large_models_fit_and_keep_the_last_step() {
        for (layers, experts, records) in [(1, 8, 5001), (58, 256, 40), (26, 64, 1000)] {
            let mut load = Load::default();
            for step in 1..=records {
                load.push(step, vec![vec![1.0 / experts as f32; experts]; layers]);
            }
            load.fit();
            let shown = load.layers();
            assert_eq!(shown.len(), layers);
            assert!(shown.iter().map(|layer| layer.1.len()).sum::<usize>() <= CELLS);
            assert!(shown.iter().all(|layer| layer.1.bytes().all(|cell| cell == b'g')), "all at the mean");
            assert_eq!(*load.steps().last().unwrap(), records);
            assert!(load.steps().len() <= MOST_COLUMNS && load.steps().len() > 7);
        }
    }

    #[test]
    fn hostile_shapes_are_left_out() {
        let mut load = Load::default();
        load.push(1, Vec::new());
        load.push(2, vec![vec![0.5, 0.5], vec![1.0]]);
        load.push(3, vec![vec![1.0], vec![0.5, 0.5]]);
        load.fit();
        assert_eq!(load.steps(), [2]);
        assert_eq!(load.layers(), [(2, "gg".into()), (1, "g".into())]);

        let mut huge = Load::default();
        huge.push(1, vec![vec![1.0], vec![0.0; CELLS]]);
        huge.fit();
        assert_eq!(huge.layers().len(), 1);
    }
}
