//! Quotes of a proven key that say less than the policy asks for, or the truth about a latched TPM.

use anyhow::{Context as _, Result};
use api::Class;
use evidence::TpmEvidence;

use crate::installation::{Installation, Lie, Node, is_command, replace};
use crate::session::{Answer, Session, evidence, hello};

/// `TPM_CC_Quote` (Part 2, section 6.5.2).
const QUOTE: u32 = 0x158;

/// A selection of one bank with three bytes of bits: its hash algorithm is in the middle.
const SHA256_BANK: [u8; 7] = [0, 0, 0, 1, 0, 0x0b, 3];
const SHA1_BANK: [u8; 7] = [0, 0, 0, 1, 0, 0x04, 3];
const SHA384_BANK: [u8; 7] = [0, 0, 0, 1, 0, 0x0c, 3];

const REFUSED: Answer = Answer::Refused(Class::Refused);
const MALFORMED: Answer = Answer::Refused(Class::Malformed);

#[test]
fn quotes_that_hide_something_are_refused() -> Result<()> {
    let installation = Installation::start("quotes")?;
    let mut node = installation.node()?;
    fewer_pcrs(&installation, &mut node).context("fewer PCRs")?;
    other_values(&installation, &mut node).context("other values beside the quote")?;
    latched(&installation, &mut node).context("PCR 15 extended")?;
    other_bank(&installation, |command| to_bank(command, &SHA1_BANK)).context("SHA-1 bank")?;
    other_bank(&installation, |command| to_bank(command, &SHA384_BANK)).context("SHA-384 bank")?;
    installation.passed()
}

fn fewer_pcrs(installation: &Installation, node: &mut Node) -> Result<()> {
    // Without PCR 15, the latch: not quoted and not sent.
    let without_latch = |node: &mut Node, session: &Session| {
        let pcrs = session.pcrs.iter().copied().filter(|&pcr| pcr != 15);
        let data = session.binding.qualifying_data();
        node.boot.tpm().quote(&data, &pcrs.collect::<Vec<_>>())
    };
    let selection = (&REFUSED, "quoted PCR selection");
    attack(installation, node, selection, |node, session| {
        Ok(without_latch(node, session)?)
    })?;
    // Not quoted, but sent.
    attack(installation, node, selection, |node, session| {
        let mut quote = without_latch(node, session)?;
        quote.pcrs.insert(15, [0; 32]);
        Ok(quote)
    })?;
    // Quoted, but not sent.
    let values = (&MALFORMED, "sent PCR values");
    attack(installation, node, values, |node, session| {
        let (_, mut quote) = session.attest(&mut node.boot)?;
        quote.pcrs.remove(&15);
        Ok(quote)
    })
}

fn other_values(installation: &Installation, node: &mut Node) -> Result<()> {
    attack(
        installation,
        node,
        (&REFUSED, "quoted PCR digest"),
        |node, session| {
            let (_, mut quote) = session.attest(&mut node.boot)?;
            quote.pcrs.insert(11, [7; 32]);
            Ok(quote)
        },
    )
}

fn latched(installation: &Installation, node: &mut Node) -> Result<()> {
    node.boot.tpm().extend(15, &[1; 32])?;
    attack(installation, node, (&REFUSED, "PCR 15"), |node, session| {
        Ok(session.attest(&mut node.boot)?.1)
    })?;
    // As if it were not.
    attack(
        installation,
        node,
        (&REFUSED, "quoted PCR digest"),
        |node, session| {
            let (_, mut quote) = session.attest(&mut node.boot)?;
            quote.pcrs.insert(15, [0; 32]);
            Ok(quote)
        },
    )
}

fn other_bank(installation: &Installation, lie: Lie) -> Result<()> {
    let mut liar = installation.lying_node(lie)?;
    let expected = (&REFUSED, "quoted PCR selection");
    attack(installation, &mut liar, expected, |node, session| {
        Ok(session.attest(&mut node.boot)?.1)
    })
}

fn to_bank(command: Vec<u8>, bank: &[u8; 7]) -> Vec<u8> {
    if is_command(&command, QUOTE) {
        return replace(command, &SHA256_BANK, bank);
    }
    command
}

/// A session that is honest but for its quote.
fn attack(
    installation: &Installation,
    node: &mut Node,
    (answer, check): (&Answer, &str),
    quote: impl FnOnce(&mut Node, &Session) -> Result<TpmEvidence>,
) -> Result<()> {
    let owner = installation.owner()?;
    installation.expect_refused(answer, check, || {
        let session = Session::open(installation.address(), &hello(&node.boot))?;
        let activated = node.boot.tpm().activate(session.challenge()?)?;
        let quote = quote(node, &session)?;
        session.show(&evidence(activated.as_slice(), quote)?, &owner)
    })
}
