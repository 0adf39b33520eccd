//! Seen against unseen accuracy as the bias of unseen classes moves, and the area under that curve
//! (AUSUC; Chao, Changpinyo, Gong and Sha, 2016). A method that avoids the classes that it has
//! learned, or those that it has not, only moves along its curve.

use crate::{evaluate::Prediction, stream::Stream};

/// A point of the curve: accuracies in %, each the mean over tasks, where all classes are
/// candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// On images of classes that are learned.
    pub seen: f64,
    /// On images of those that are not.
    pub unseen: f64,
}

/// The curve after `learned` tasks, from the bias that allows no unseen class to that which allows
/// no seen one. `truth` are the images' classes. None where no class is unseen or none is learned,
/// and where unseen ones are not scored.
pub fn curve(
    predictions: &[Option<Prediction>],
    truth: &[usize],
    learned: usize,
    stream: &Stream,
) -> Option<Vec<Point>> {
    let mut images = vec![0usize; stream.tasks()];
    let mut right: Vec<(f32, bool, usize)> = Vec::new(); // margin, whether of a seen class, task
    for (prediction, &class) in predictions.iter().zip(truth) {
        let Some(prediction) = prediction else { continue };
        let (unseen, task) = (prediction.unseen?, stream.task_of(class));
        let (margin, is_seen) = (unseen.margin?, task < learned);
        images[task] += 1;
        if class == if is_seen { prediction.class } else { unseen.class } {
            right.push((margin, is_seen, task));
        }
    }
    let tasks = |is_seen: bool| images.iter().enumerate().filter(|&(t, &n)| n > 0 && (t < learned) == is_seen).count();
    let (seen_tasks, unseen_tasks) = (tasks(true), tasks(false));
    if seen_tasks == 0 || unseen_tasks == 0 {
        return None;
    }
    let share = |task: usize, tasks: usize| 100.0 / (images[task] * tasks) as f64;
    // the higher a margin, the smaller the bias that makes the answer an unseen class
    right.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut point = Point { seen: 0.0, unseen: 0.0 };
    for (_, _, task) in right.iter().filter(|(_, is_seen, _)| *is_seen) {
        point.seen += share(*task, seen_tasks);
    }
    let mut curve = vec![point];
    for equal in right.chunk_by(|a, b| a.0 == b.0) {
        for &(_, is_seen, task) in equal {
            match is_seen {
                true => point.seen -= share(task, seen_tasks),
                false => point.unseen += share(task, unseen_tasks),
            }
        }
        curve.push(point);
    }
    Some(curve)
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
            Some(Prediction { class, score: 0.0, in_task: class, raw: None, open: None, unseen })
        };
        // after one task: class 0 has two images that are right among the seen; of class 1 one of
        // two is right among the unseen, of class 2 the only one, at the margin of an image of 0
        let truth = [0, 0, 1, 1, 2];
        let predictions = [say(0, 1, -0.5), say(0, 1, 0.25), say(0, 1, 0.5), say(0, 2, 0.75), say(0, 2, 0.25)];
        let points = |learned| curve(&predictions, &truth, learned, &stream);
        let found: Vec<(f64, f64)> = points(1).unwrap().iter().map(|p| (p.seen, p.unseen)).collect();
        assert_eq!(found, [(100.0, 0.0), (100.0, 25.0), (50.0, 75.0), (0.0, 75.0)]);
        assert_eq!(area(&points(1).unwrap()), 25.0 + 37.5);
        assert_eq!(points(3), None);
        let mut silent = predictions;
        silent[1] = silent[1].map(|p| Prediction { unseen: None, ..p });
        assert_eq!(curve(&silent, &truth, 1, &stream), None);
    }
}
