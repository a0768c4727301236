//! Private servers, faults, workload and checker for the tests, the benches and the demo.
