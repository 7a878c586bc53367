//! Shapes, settings and traffic of the contrastive cases.

use super::{Backward, Forward, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

#[derive(Clone, Copy)]
struct Contrastive {
    items: usize,
    queries: usize,
    width: usize,
    group: usize,
    symmetric: bool,
    classes: Option<u32>,
    fixed_temperature: bool,
}

impl Op for Contrastive {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let args = Forward {
            loss: t.accumulated("loss"),
            row_logsumexp: t.accumulated("row_logsumexp"),
            column_logsumexp: t.accumulated("column_logsumexp"),
            cells: t.value("cells"),
            texts: t.value("texts"),
            classes: self.classes.map(|_| t.index("classes")),
            temperature: t.value("temperature"),
            queries: self.queries,
            group: self.group,
            symmetric: self.symmetric,
        };
        forward(stream, args)
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let args = Backward {
            dcells: t.value("dcells"),
            dtexts: t.value("dtexts"),
            dtemperature: (!self.fixed_temperature).then(|| t.accumulated("dtemperature")),
            dloss: t.accumulated("dloss"),
            row_logsumexp: t.accumulated("row_logsumexp"),
            column_logsumexp: t.accumulated("column_logsumexp"),
            cells: t.value("cells"),
            texts: t.value("texts"),
            classes: self.classes.map(|_| t.index("classes")),
            temperature: t.value("temperature"),
            queries: self.queries,
            group: self.group,
            symmetric: self.symmetric,
        };
        backward(stream, args)
    }
}

impl Contrastive {
    fn new(items: usize, queries: usize, width: usize) -> Contrastive {
        Contrastive { items, queries, width, group: 0, symmetric: false, classes: None, fixed_temperature: false }
    }

    fn symmetric(self) -> Contrastive {
        Contrastive { symmetric: true, ..self }
    }

    fn groups_of(self, group: usize) -> Contrastive {
        Contrastive { group, ..self }
    }

    /// Classes at random, `classes` of them.
    fn classes(self, classes: u32) -> Contrastive {
        Contrastive { classes: Some(classes), ..self }
    }

    fn fixed_temperature(self) -> Contrastive {
        Contrastive { fixed_temperature: true, ..self }
    }

    fn case(self, temperature: f64) -> Case {
        let Contrastive { items, queries, width, group, symmetric, classes, fixed_temperature } = self;
        let parts = [
            format!("{items}x{queries}x{width}_t{temperature}"),
            if group > 0 { format!("_groups_of_{group}") } else { String::new() },
            classes.map(|classes| format!("_classes_{classes}")).unwrap_or_default(),
            if symmetric { "_symmetric".into() } else { String::new() },
        ];
        // Rows of length 1 on average.
        let unit = || Fill::Range(-(3.0 / width as f64).sqrt(), (3.0 / width as f64).sqrt());
        let mut case = Case::new(parts.concat(), self).input_filled("cells", [items * queries, width], unit()).input_filled(
            "texts",
            [items, width],
            unit(),
        );
        let value = Fill::Values(vec![temperature]);
        case = if fixed_temperature { case.fixed("temperature", [1], value) } else { case.parameter_filled("temperature", [1], value) };
        if let Some(classes) = classes {
            case = case.index("classes", [items], Fill::Below(classes));
        }
        let contrasts = if group == 0 { items } else { group };
        case.loss("loss", [1])
            .statistic("row_logsumexp", [items])
            .statistic("column_logsumexp", [items])
            .tolerance(Tolerance::f32().reduction(width).scaled(1.0f64.max(0.1 / temperature)))
            .scratch(scratch::<f64>(items, queries, width).max(scratch::<crate::runtime::bf16>(items, queries, width)))
            .bytes(4 * (queries + 1) * items * width)
            .flops(2 * items * contrasts * queries * width)
    }
}

/// One item, primes, more than one segment and tile, one query and many, groups of the authors with and without a rest, items of one
/// class (all of them too), both directions, a fixed temperature and a sharp one; widths of more columns than a block has; on GPUs several
/// slices, the last a short one; then the sizes of training.
pub fn cases() -> Vec<Case> {
    let of = Contrastive::new;
    vec![
        of(1, 1, 1).case(0.1),
        of(1, 3, 5).symmetric().case(0.1),
        of(2, 1, 7).case(0.5),
        of(7, 1, 33).symmetric().case(0.1),
        of(12, 32, 16).groups_of(3).case(0.1),
        of(11, 2, 24).groups_of(4).symmetric().case(0.1),
        of(13, 5, 17).classes(4).symmetric().case(0.2),
        of(9, 1, 8).classes(1).symmetric().case(0.1),
        of(31, 1, 64).classes(7).fixed_temperature().case(0.07),
        of(67, 1, 33).symmetric().fixed_temperature().case(0.01),
        of(131, 3, 40).classes(50).symmetric().case(0.1),
        of(211, 1, 24).groups_of(97).classes(20).symmetric().case(0.1),
        of(600, 1, 16).symmetric().case(0.1),
        of(3, 200, 9).case(0.1),
        of(3, 2, 300).symmetric().case(0.1),
        of(260, 1, 77).case(0.1),
        of(300, 2, 100).symmetric().case(0.1),
        of(11, 1, 5).groups_of(3).case(0.1),
        of(17, 1, 11).groups_of(7).classes(5).symmetric().case(0.1),
        of(59, 1, 13).groups_of(14).symmetric().case(0.1),
        of(37, 4, 11).groups_of(14).symmetric().case(0.1),
        of(260, 1, 4).groups_of(140).case(0.2),
        of(300, 2, 13).classes(30).symmetric().case(0.2),
        of(150, 9, 13).classes(11).symmetric().fixed_temperature().case(0.2),
        of(4096, 1, 256).symmetric().case(0.1).bench(),
        of(512, 32, 256).symmetric().case(0.1).bench(),
        of(384, 32, 256).groups_of(3).case(0.1).bench(),
    ]
}
