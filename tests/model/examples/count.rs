//! The journey of events, for counting the instructions of one: twice, with different numbers of events, and the difference divided.
//!
//! ```sh norun
//! cargo build --release --locked -p model --example count
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/count 100 20000    # rows of a transaction, events
//! ```

use model::journey::Journey;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().unwrap_or_default().parse::<usize>();
    let (rows, events) = (number()?, number()?);
    let mut journey = Journey::new(rows, 0);
    (0..events).for_each(|_| journey.event());
    Ok(())
}
