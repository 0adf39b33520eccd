//! The classes that a step's rows are held against: all that are known, or some of them, so that a
//! step does not grow with their number.
//!
//! Of some, those of the rows are always there and others are drawn. Each that is drawn stands for as
//! many as there are for each of them: the logarithm of that number is added to its logits, so that
//! the sum of their exponentials is, in the mean, that of all (Jean et al., 2015).

use crate::rng::Rng;

/// Rows that a step is made of.
pub struct Batch<'a> {
    /// Their places among the embeddings.
    pub rows: &'a [usize],
    /// What they are held against; none is all classes known.
    pub candidates: Option<Candidates>,
}

impl<'a> Batch<'a> {
    /// Rows that are held against all classes.
    pub fn of(rows: &'a [usize]) -> Self {
        Batch { rows, candidates: None }
    }
}

/// Some classes, by their places in learning order.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// Ascending.
    pub classes: Vec<usize>,
    /// What is added to the logits of each.
    pub more: Vec<f32>,
}

impl Candidates {
    /// Up to `count` of the classes `known`, ascending, or as many as the rows have: those of the
    /// rows, and others. None where that is all.
    pub fn draw(known: &[usize], of_rows: impl Iterator<Item = usize>, count: usize, rng: &mut Rng) -> Option<Self> {
        let mut own: Vec<usize> = of_rows.collect();
        own.sort_unstable();
        own.dedup();
        let rest = known.len() - own.len();
        let drawn = count.saturating_sub(own.len()).min(rest);
        if drawn == rest {
            return None;
        }
        let mut others: Vec<usize> = known.iter().copied().filter(|class| own.binary_search(class).is_err()).collect();
        for i in 0..drawn {
            others.swap(i, i + rng.below(rest - i));
        }
        let stands_for = (rest as f32 / drawn as f32).ln();
        let mut all: Vec<(usize, f32)> = own.into_iter().map(|class| (class, 0.0)).collect();
        all.extend(others[..drawn].iter().map(|&class| (class, stands_for)));
        all.sort_unstable_by_key(|&(class, _)| class);
        let (classes, more) = all.into_iter().unzip();
        Some(Candidates { classes, more })
    }

    /// The places of classes among these.
    pub fn places(&self, classes: &[u32]) -> Vec<u32> {
        let place = |class: &u32| self.classes.partition_point(|&other| other < *class as usize) as u32;
        classes.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Draw;

    #[test]
    fn the_rows_own_classes_are_there_and_others_are_drawn() {
        let known: Vec<usize> = (0..20).filter(|class| class % 5 != 4).collect(); // 16 of them
        let mut times = [0; 20];
        for step in 0..2000 {
            let mut rng = Rng::new(3, Draw::Candidates, &[step]);
            let found = Candidates::draw(&known, [12, 3, 12].into_iter(), 6, &mut rng).unwrap();
            assert!(found.classes.len() == 6 && found.classes.is_sorted_by(|a, b| a < b));
            for (class, more) in found.classes.iter().zip(&found.more) {
                let own = [3, 12].contains(class);
                assert!(known.contains(class) && (*more - if own { 0.0 } else { (14f32 / 4.0).ln() }).abs() < 1e-6);
                times[*class] += 1;
            }
            let places = found.places(&[12, 3]);
            assert_eq!(places.iter().map(|&place| found.classes[place as usize]).collect::<Vec<_>>(), [12, 3]);
        }
        for &class in &known {
            // 4 of 14: 571 times, by chance ± 20
            assert!(if [3, 12].contains(&class) { times[class] == 2000 } else { (490..650).contains(&times[class]) });
        }
        // as many as there are, or more rows' classes than asked for
        let mut rng = Rng::new(3, Draw::Candidates, &[]);
        assert_eq!(Candidates::draw(&known, [3].into_iter(), 16, &mut rng), None);
        let found = Candidates::draw(&known, [0, 1, 2].into_iter(), 2, &mut rng).unwrap();
        assert_eq!(found, Candidates { classes: vec![0, 1, 2], more: vec![0.0; 3] });
    }
}
