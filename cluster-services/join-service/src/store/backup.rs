//! A consistent copy of the store, as a file of the same format.

use super::{CACHE, DOCUMENTS, META, OBJECTS, Store, StoreError, fail};
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;

impl Store {
    /// The bytes of a store file with everything that is committed now. To restore, stop the service
    /// and put them where the configuration says the store is.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when it cannot be read or there is no room beside it.
    pub fn backup(&self) -> Result<Vec<u8>, StoreError> {
        let copy = || {
            // Beside the store: as much room and as much secrecy as there.
            let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
            let file = tempfile::NamedTempFile::new_in(folder)?;
            copy(&self.database.begin_read()?, file.path())?;
            std::fs::read(file.path()).map_err(redb::Error::from)
        };
        copy().map_err(|error: redb::Error| fail(&error))
    }
}

fn copy(from: &ReadTransaction, path: &Path) -> Result<(), redb::Error> {
    let database = Builder::new().set_cache_size(CACHE).create(path)?;
    copy_table(from, &database, META)?;
    copy_table(from, &database, OBJECTS)?;
    copy_table(from, &database, DOCUMENTS)
}

fn copy_table<V: redb::Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    table: TableDefinition<'_, &'static str, V>,
) -> Result<(), redb::Error>
where
    for<'a> V::SelfType<'a>: std::borrow::Borrow<V::SelfType<'a>>,
{
    let transaction = to.begin_write()?;
    {
        let mut target = transaction.open_table(table)?;
        for entry in from.open_table(table)?.iter()? {
            let (key, value) = entry?;
            target.insert(key.value(), value.value())?;
        }
    }
    transaction.commit()?;
    Ok(())
}
