//! Seen against unseen accuracy as the bias of unseen classes moves, and the area under that curve
//! (AUSUC; Chao, Changpinyo, Gong and Sha, 2016). A method that avoids the classes that it has
//! learned, or those that it has not, only moves along its curve.

use std::collections::BTreeMap;

use crate::{evaluate::Prediction, stream::Stream};

/// What sums of shares may be off by, in %.
const ROUNDING: f64 = 1e-9;

/// A point of the curve: accuracies in %, each the mean over tasks, where all classes are
/// candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// On images of classes that are learned.
    pub seen: f64,
    /// On images of those that are not.
    pub unseen: f64,
}

/// What is said of an image after some tasks.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its task.
    pub task: usize,
    /// Whether that is learned.
    pub is_seen: bool,
    /// Whether its class is the best of the seen ones, or of the others where it is one of them.
    pub is_right: bool,
    /// The score of the best unseen class less that of the best seen one.
    pub margin: f32,
}

/// The curve after `learned` tasks, as [`curve_of`] draws it. `truth` are the images' classes. None
/// where no class is unseen or none is learned, and where unseen ones are not scored.
pub fn curve(
    predictions: &[Option<Prediction>],
    truth: &[usize],
    learned: usize,
    stream: &Stream,
) -> Option<Vec<Point>> {
    let there = predictions.iter().zip(truth).filter_map(|(prediction, &class)| Some(((*prediction)?, class)));
    let image = |(prediction, class): (Prediction, usize)| {
        let (unseen, task) = (prediction.unseen?, stream.task_of(class));
        let is_seen = task < learned;
        let is_right = Some(class) == if is_seen { prediction.class } else { Some(unseen.class) };
        Some(Image { task, is_seen, is_right, margin: unseen.margin? })
    };
    curve_of(&there.map(image).collect::<Option<Vec<_>>>()?)
}

/// The curve of these images, from the bias that allows no unseen class to that which allows no
/// seen one. None unless some are of a seen class, and some of an unseen one.
pub fn curve_of(images: &[Image]) -> Option<Vec<Point>> {
    let mut of_task: BTreeMap<(bool, usize), usize> = BTreeMap::new();
    images.iter().for_each(|image| *of_task.entry((image.is_seen, image.task)).or_default() += 1);
    let tasks = |is_seen: bool| of_task.keys().filter(|(seen, _)| *seen == is_seen).count();
    let (seen_tasks, unseen_tasks) = (tasks(true), tasks(false));
    if seen_tasks == 0 || unseen_tasks == 0 {
        return None;
    }
    let share = |image: &Image| {
        let tasks = if image.is_seen { seen_tasks } else { unseen_tasks };
        100.0 / (of_task[&(image.is_seen, image.task)] * tasks) as f64
    };
    let mut right: Vec<&Image> = images.iter().filter(|image| image.is_right).collect();
    // the higher a margin, the smaller the bias that makes the answer an unseen class
    right.sort_by(|a, b| b.margin.total_cmp(&a.margin));
    let seen = right.iter().filter(|image| image.is_seen).map(|image| share(image)).sum();
    let mut point = Point { seen, unseen: 0.0 };
    let mut curve = vec![point];
    for equal in right.chunk_by(|a, b| a.margin == b.margin) {
        for image in equal {
            match image.is_seen {
                true => point.seen -= share(image),
                false => point.unseen += share(image),
            }
        }
        curve.push(point);
    }
    Some(curve)
}

/// The accuracy on images of seen classes where that on the others is `unseen`, in %, on the
/// straight line between points of a curve; 0 where the curve does not reach so far.
///
/// ```
/// use cgil::ausuc::{Point, seen_at};
/// let curve = [(80.0, 0.0), (60.0, 50.0), (0.0, 50.0)].map(|(seen, unseen)| Point { seen, unseen });
/// assert_eq!([0.0, 25.0, 50.0, 51.0].map(|unseen| seen_at(&curve, unseen)), [80.0, 70.0, 60.0, 0.0]);
/// ```
pub fn seen_at(curve: &[Point], unseen: f64) -> f64 {
    let after = curve.partition_point(|point| point.unseen < unseen - ROUNDING);
    match (curve.get(after.wrapping_sub(1)), curve.get(after)) {
        (Some(before), Some(after)) => {
            let share = ((unseen - before.unseen) / (after.unseen - before.unseen)).min(1.0);
            before.seen + share * (after.seen - before.seen)
        }
        (None, Some(first)) => first.seen,
        (_, None) => 0.0,
    }
}

/// The area under a curve, in % of the square, by the trapezoidal rule.
///
/// ```
/// use cgil::ausuc::{Point, area};
/// let curve = [(80.0, 0.0), (60.0, 50.0), (0.0, 50.0)].map(|(seen, unseen)| Point { seen, unseen });
/// assert_eq!(area(&curve), 35.0); // 50 wide, 70 high in the middle
/// ```
pub fn area(curve: &[Point]) -> f64 {
    curve.windows(2).map(|w| (w[1].unseen - w[0].unseen) * (w[0].seen + w[1].seen) / 200.0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluate::Unseen, task::Class};

    #[test]
    fn a_curve_is_the_one_drawn_by_hand() {
        let classes: Vec<Class> = (0..3).map(|i| Class { label: i, name: format!("c{i}") }).collect();
        let stream = Stream::of_sizes(&classes, &[1, 1, 1]).unwrap();
        let say = |class: usize, unseen: usize, margin: f32| {
            let unseen = Some(Unseen { class: unseen, margin: Some(margin) });
            Some(Prediction { class: Some(class), unseen, ..Prediction::default() })
        };
        // after one task: class 0 has two images that are right among the seen; of class 1 one of
        // two is right among the unseen, of class 2 the only one, at the margin of an image of 0
        let truth = [0, 0, 1, 1, 2];
        let predictions = [say(0, 1, -0.5), say(0, 1, 0.25), say(0, 1, 0.5), say(0, 2, 0.75), say(0, 2, 0.25)];
        let points = |learned| curve(&predictions, &truth, learned, &stream);
        let found: Vec<(f64, f64)> = points(1).unwrap().iter().map(|p| (p.seen, p.unseen)).collect();
        assert_eq!(found, [(100.0, 0.0), (100.0, 25.0), (50.0, 75.0), (0.0, 75.0)]);
        assert_eq!(area(&points(1).unwrap()), 25.0 + 37.5);
        // a curve that ends at all unseen images reaches there, however their shares add up
        for n in [7, 12, 14, 17] {
            let images: Vec<Image> = (0..=n)
                .map(|i| Image { task: usize::from(i > 0), is_seen: i == 0, is_right: true, margin: -(i as f32) })
                .collect();
            assert_eq!(seen_at(&curve_of(&images).unwrap(), 100.0), 0.0, "{n}");
            let seen_last: Vec<Image> = images
                .iter()
                .map(|image| Image { margin: if image.is_seen { -100.0 } else { image.margin }, ..*image })
                .collect();
            assert_eq!(seen_at(&curve_of(&seen_last).unwrap(), 100.0), 100.0, "{n}");
        }
        assert_eq!(points(3), None);
        let mut silent = predictions;
        silent[1] = silent[1].map(|p| Prediction { unseen: None, ..p });
        assert_eq!(curve(&silent, &truth, 1, &stream), None);
    }
}
