//! What stands in fixed places: reports, the host's certificate table, ID blocks, Azure's blobs.
#![no_main]
use libfuzzer_sys::fuzz_target;
use snp::{CertificateTable, HclReport, IdAuthentication, IdBlock, Product, Report};

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 4 {
        0 => report(data),
        1 => drop(CertificateTable::parse(data)),
        2 => {
            if let Ok(hcl) = HclReport::parse(data) {
                report(hcl.hardware_report());
            }
        }
        _ => {
            let (block, authentication) = data.split_at(data.len().min(96));
            if let (Ok(block), Ok(authentication)) = (
                IdBlock::parse(block),
                IdAuthentication::parse(authentication),
            ) {
                drop(authentication.verify(&block));
            }
        }
    }
});

fn report(data: &[u8]) {
    let Ok(report) = Report::parse(data) else {
        return;
    };
    assert_eq!(report.as_bytes(), data, "a report keeps its bytes");
    for product in Product::ALL {
        if let Ok(tcb) = report.reported_tcb.decode(product) {
            assert_eq!(tcb.encode(product), report.reported_tcb);
        }
    }
}
