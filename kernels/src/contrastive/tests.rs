//! Against the loss as the formula says it, with the whole matrix; what is refused; and what a NaN does.

use super::*;
use crate::runtime::philox::{philox4x32, uniform};
use crate::runtime::{Arena, Class, Device, Plan};

/// One problem on the CPU in f64.
struct Problem {
    stream: Stream,
    forward: Forward<f64>,
    backward: Backward<f64>,
    _arena: Arena,
}

impl Problem {
    fn new(items: usize, queries: usize, width: usize) -> Problem {
        let device = Device::cpu(2).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let (cells, dcells) = (plan.tensor("cells", [items * queries, width]), plan.tensor("dcells", [items * queries, width]));
        let (texts, dtexts) = (plan.tensor("texts", [items, width]), plan.tensor("dtexts", [items, width]));
        let (loss, dloss) = (plan.tensor("loss", [1]), plan.tensor("dloss", [1]));
        let (row_logsumexp, column_logsumexp) = (plan.tensor("rows", [items]), plan.tensor("columns", [items]));
        let (temperature, dtemperature) = (plan.tensor("temperature", [1]), Some(plan.tensor("dtemperature", [1])));
        let numbers = plan.tensor("classes", [items]);
        let arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        let (classes, group, symmetric) = (Some(numbers), 0, true);
        let forward = Forward { loss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, queries, group, symmetric };
        let backward = Backward {
            dcells,
            dtexts,
            dtemperature,
            dloss,
            row_logsumexp,
            column_logsumexp,
            cells,
            texts,
            classes,
            temperature,
            queries,
            group,
            symmetric,
        };
        let problem = Problem { stream, forward, backward, _arena: arena };
        let value = |at: usize, key: u32| f64::from(uniform(philox4x32([at as u32, 0, 0, 0], [key, 0])[0])) - 0.5;
        let fill =
            |tensor: Tensor<f64>, key| problem.stream.upload(tensor, &(0..tensor.len()).map(|at| value(at, key)).collect::<Vec<_>>());
        fill(cells, 1).unwrap();
        fill(texts, 2).unwrap();
        problem.stream.upload(temperature, &[0.1]).unwrap();
        problem.stream.upload(dloss, &[1.0]).unwrap();
        problem.stream.upload(numbers, &(0..items as u32).collect::<Vec<_>>()).unwrap();
        problem
    }

    fn loss(&self, args: Forward<f64>) -> f64 {
        forward(&self.stream, args).unwrap();
        self.stream.fetch(args.loss).unwrap()[0]
    }

    /// The loss of items `start..end` by the formula.
    fn naive(&self, start: usize, end: usize) -> f64 {
        let Forward { cells, texts, temperature, queries, symmetric, .. } = self.forward;
        let fetch = |tensor| self.stream.fetch::<f64>(tensor).unwrap();
        let (cells, texts, temperature, width) = (fetch(cells), fetch(texts), fetch(temperature)[0], texts.width());
        let classes = self.stream.fetch(self.forward.classes.unwrap()).unwrap();
        let dot =
            |i: usize, q: usize, j: usize| -> f64 { (0..width).map(|c| cells[(i * queries + q) * width + c] * texts[j * width + c]).sum() };
        let score = |i: usize, j: usize| (0..queries).map(|q| dot(i, q, j)).fold(f64::NEG_INFINITY, f64::max) / temperature;
        let allowed = |i: usize, j: usize| i == j || classes[i] != classes[j];
        let mut loss = 0.0;
        for i in start..end {
            let row: f64 = (start..end).filter(|&j| allowed(i, j)).map(|j| score(i, j).exp()).sum();
            let column: f64 = (start..end).filter(|&j| allowed(j, i)).map(|j| score(j, i).exp()).sum();
            loss += row.ln() - score(i, i) + if symmetric { column.ln() - score(i, i) } else { 0.0 };
        }
        loss / ((end - start) * if symmetric { 2 } else { 1 }) as f64
    }
}

#[test]
fn is_the_formula_in_both_directions_and_in_groups() {
    let mut problem = Problem::new(97, 3, 12);
    for symmetric in [true, false] {
        problem.forward.symmetric = symmetric;
        for classes in [97, 10, 1] {
            let numbers: Vec<u32> = (0..97).map(|item| item % classes).collect();
            problem.stream.upload(problem.forward.classes.unwrap(), &numbers).unwrap();
            let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got} {expected}");
            close(problem.loss(problem.forward), problem.naive(0, 97));
            let groups = [problem.naive(0, 40), problem.naive(40, 80), problem.naive(80, 97)];
            close(problem.loss(Forward { group: 40, ..problem.forward }), groups.iter().sum::<f64>() / 3.0);
            close(problem.loss(Forward { group: 1, ..problem.forward }), 0.0);
        }
    }
}

#[test]
fn equal_queries_pass_the_gradient_to_the_first() {
    let problem = Problem::new(2, 3, 4);
    let row = |item: f64| [item, 0.5, -item, 0.25];
    // Queries 1 and 2 of both cells are equal and beat query 0.
    let cells: Vec<f64> = [[-9.0; 4], row(0.5), row(0.5), [-9.0; 4], row(0.75), row(0.75)].concat();
    problem.stream.upload(problem.forward.cells, &cells).unwrap();
    problem.stream.upload(problem.forward.texts, &[0.5, 0.5, 0.0, 1.0, 1.0, 0.25, 0.5, 0.0]).unwrap();
    problem.loss(problem.forward);
    backward(&problem.stream, problem.backward).unwrap();
    let dcells = problem.stream.fetch(problem.backward.dcells).unwrap();
    for (row, gradient) in dcells.chunks(4).enumerate() {
        assert_eq!(gradient.iter().all(|value| *value == 0.0), row % 3 != 1, "row {row}: {gradient:?}");
    }
}

#[test]
fn refuses_what_cannot_be() {
    let problem = Problem::new(3, 2, 4);
    let (stream, args) = (&problem.stream, problem.forward);
    for temperature in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        stream.upload(args.temperature, &[temperature]).unwrap();
        assert!(matches!(forward(stream, args), Err(Error::Argument { argument: "temperature", .. })));
        assert!(matches!(backward(stream, problem.backward), Err(Error::Argument { argument: "temperature", .. })));
    }
    assert!(matches!(forward(stream, Forward { queries: 0, ..args }), Err(Error::Argument { argument: "queries", .. })));
    assert!(matches!(forward(stream, Forward { queries: 3, ..args }), Err(Error::Shape { tensor: "cells", .. })));
    let nothing = args.texts.row_range(0, 0);
    assert!(matches!(forward(stream, Forward { texts: nothing, ..args }), Err(Error::Argument { argument: "items", .. })));
}

#[test]
fn nan_is_seen_whichever_query_has_it() {
    let problem = Problem::new(5, 3, 4);
    let cells = problem.stream.fetch(problem.forward.cells).unwrap();
    for at in [0, 7 * 4 + 1, 14 * 4 + 3] {
        let mut poisoned = cells.clone();
        poisoned[at] = f64::NAN;
        problem.stream.upload(problem.forward.cells, &poisoned).unwrap();
        assert!(problem.loss(problem.forward).is_nan());
    }
}
