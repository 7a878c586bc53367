#[test] fn tidy() {}
