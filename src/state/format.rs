//! (written next)

use crate::state::StateError;
use crate::state::row::{BufferedRecord, Progress, RowState};
pub struct RowCodec { schema_id: u32 }
impl RowCodec {
    pub fn new(schema_id: u32) -> RowCodec { RowCodec { schema_id } }
    pub fn encode_row(&self, _row: &RowState, _into: &mut Vec<u8>) { unimplemented!("{}", self.schema_id) }
    pub fn decode_row(&self, _bytes: &[u8]) -> Result<RowState, StateError> { unimplemented!("") }
    pub fn encode_progress(&self, _row: &Progress, _into: &mut Vec<u8>) { unimplemented!("") }
    pub fn decode_progress(&self, _bytes: &[u8]) -> Result<Progress, StateError> { unimplemented!("") }
    pub fn encode_buffered(&self, _row: &BufferedRecord, _into: &mut Vec<u8>) { unimplemented!("") }
    pub fn decode_buffered(&self, _bytes: &[u8]) -> Result<BufferedRecord, StateError> { unimplemented!("") }
}
