//! Against a naive softmax in f64, and what must not change a bit.
