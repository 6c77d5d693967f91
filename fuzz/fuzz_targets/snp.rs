//! What stands in fixed places: reports, the host's certificate table, ID blocks, Azure's blobs.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use snp::{CertificateTable, HclReport, IdAuthentication, IdBlock, Product, Report};

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 4 {
        0 => report(data),
        1 => CertificateTable::parse(data).is_ok(),
        2 => {
            let Ok(hcl) = HclReport::parse(data) else {
                return false;
            };
            report(hcl.hardware_report())
        }
        _ => {
            let (block, authentication) = data.split_at(data.len().min(96));
            let block = IdBlock::parse(block);
            IdAuthentication::parse(authentication).is_ok_and(|authentication| {
                block.is_ok_and(|block| authentication.verify(&block).is_ok())
            })
        }
    }
}

fn report(data: &[u8]) -> bool {
    let Ok(report) = Report::parse(data) else {
        return false;
    };
    assert_eq!(report.as_bytes(), data, "a report keeps its bytes");
    for product in Product::ALL {
        if let Ok(tcb) = report.reported_tcb.decode(product) {
            assert_eq!(tcb.encode(product), report.reported_tcb);
        }
    }
    true
}
