//! What stands in fixed places: reports, the host's certificate table, ID blocks, Azure's blobs.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use snp::{CertificateTable, HclReport, IdAuthentication, IdBlock, Product, Report};

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 4 {
        0 => report(data),
        1 => got_through(CertificateTable::parse(data).is_ok()),
        2 => {
            let hcl = HclReport::parse(data);
            got_through(hcl.is_ok());
            if let Ok(hcl) = hcl {
                report(hcl.hardware_report());
            }
        }
        _ => {
            let (block, authentication) = data.split_at(data.len().min(96));
            let block = IdBlock::parse(block);
            let verified = IdAuthentication::parse(authentication).is_ok_and(|authentication| {
                block.is_ok_and(|block| authentication.verify(&block).is_ok())
            });
            got_through(verified);
        }
    }
});

fn report(data: &[u8]) {
    let report = Report::parse(data);
    got_through(report.is_ok());
    let Ok(report) = report else {
        return;
    };
    assert_eq!(report.as_bytes(), data, "a report keeps its bytes");
    for product in Product::ALL {
        if let Ok(tcb) = report.reported_tcb.decode(product) {
            assert_eq!(tcb.encode(product), report.reported_tcb);
        }
    }
}
