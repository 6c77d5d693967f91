//! Prints the PCRs that the boot of a UKI leaves behind: `cargo run -p measure --example pcrs uki.efi`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a UKI")?;
    println!("{:#?}", measure::predict::predict(&std::fs::read(path)?)?);
    Ok(())
}
