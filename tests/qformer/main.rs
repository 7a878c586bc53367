//! The Q-Former and the cell-text model: against PyTorch, against leaks between rows, and with BERT's weights.

mod bert;
mod golden;
mod leakage;
mod setup;
