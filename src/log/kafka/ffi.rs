//! The calls to librdkafka that the `rdkafka` crate has no safe form of. The only unsafe code of the project.
//!
//! Every object here that librdkafka ties to a client holds that client, so it outlives them in whatever order they are dropped.
//! librdkafka's handles may be used from any thread; what may not be used by two at once takes `&mut self`.

#![allow(unsafe_code, reason = "calls of a C library; each block says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{Producer, ThreadedProducer};
use smol_str::SmolStr;

use crate::log::kafka::context::{AdminSide, ConsumerSide, ProducerSide};
use crate::model::{Headers, Time};

/// A consumer, shared by its queue, its topics and every message it has delivered.
pub(super) type ConsumerClient = Arc<BaseConsumer<ConsumerSide>>;
/// A producer, shared by its topics.
pub(super) type ProducerClient = ThreadedProducer<ProducerSide>;

/// A message in librdkafka's fetch buffer, with the slot of its input.
pub struct KafkaMessage {
    message: NonNull<native::rd_kafka_message_t>,
    slot: u32,
    /// Dropped after the message.
    _client: ConsumerClient,
}

// SAFETY: a message is not tied to a thread: its buffers are counted atomically, and we hold the only pointer to it.
unsafe impl Send for KafkaMessage {}

impl KafkaMessage {
    pub fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn set_slot(&mut self, slot: u32) {
        self.slot = slot;
    }

    pub fn partition(&self) -> i32 {
        self.raw().partition
    }

    pub fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub fn time(&self) -> Time {
        // SAFETY: the pointer is valid until `drop`; a null type is allowed.
        Time(unsafe { native::rd_kafka_message_timestamp(self.message.as_ptr(), ptr::null_mut()) })
    }

    pub fn key(&self) -> Option<&[u8]> {
        let message = self.raw();
        // SAFETY: pointer and length describe the key in the message's buffer, which lives until `drop`.
        unsafe { bytes_at(message.key, message.key_len) }
    }

    pub fn value(&self) -> Option<&[u8]> {
        let message = self.raw();
        // SAFETY: as for the key.
        unsafe { bytes_at(message.payload, message.len) }
    }

    /// Copies the headers; cheap where there are none.
    pub fn headers(&self) -> Headers {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid; on success `headers` belongs to it and is only read here.
        let found = unsafe { native::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        if found != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Headers::default();
        }
        let mut list = Vec::new();
        loop {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `headers` is valid; the call fills the three places, or fails past the last header.
            let more = unsafe { native::rd_kafka_header_get_all(headers, list.len(), &mut name, &mut value, &mut size) };
            if more != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Headers::new(list);
            }
            // SAFETY: a header's name ends in NUL, its value is `size` bytes or null; both live as long as the message.
            let (name, value) = unsafe { (CStr::from_ptr(name).to_string_lossy(), bytes_at(value, size)) };
            list.push((SmolStr::new(name), value.map(Bytes::copy_from_slice)));
        }
    }

    /// The error that stands in for a record.
    pub(super) fn error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let message = self.raw();
        if message.err == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let text = self.value().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        Some((message.err.into(), text))
    }

    /// The name of its topic: a walk to a C string, so only where a topic is not known by its handle.
    pub(super) fn topic_name(&self) -> Option<&str> {
        let topic = self.raw().rkt;
        if topic.is_null() {
            return None;
        }
        // SAFETY: the topic lives as long as the message that names it, and its name ends in NUL.
        unsafe { CStr::from_ptr(native::rd_kafka_topic_name(topic)) }.to_str().ok()
    }

    fn raw(&self) -> &native::rd_kafka_message_t {
        // SAFETY: the pointer came from librdkafka as a message of ours and is destroyed in `drop` only.
        unsafe { self.message.as_ref() }
    }
}

impl Drop for KafkaMessage {
    fn drop(&mut self) {
        // SAFETY: every message of a batch call must be destroyed exactly once, and this is the only owner.
        unsafe { native::rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// # Safety
/// A pointer that is not null must stand at `length` readable bytes that live for `'a`.
unsafe fn bytes_at<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches for the range.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) })
}

/// The queue that all input partitions of a consumer are forwarded to.
pub(super) struct DataQueue {
    queue: NonNull<native::rd_kafka_queue_t>,
    taken: Vec<*mut native::rd_kafka_message_t>,
    client: ConsumerClient,
}

// SAFETY: a queue may be used from any thread, by one at a time (`take` needs `&mut`); `taken` is empty between calls.
unsafe impl Send for DataQueue {}

impl DataQueue {
    pub(super) fn new(client: &ConsumerClient) -> Option<DataQueue> {
        // SAFETY: the client is valid as long as we hold it.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(client.client().native_ptr()) })?;
        Some(DataQueue { queue, taken: Vec::new(), client: client.clone() })
    }

    /// Sends what is fetched of a partition here. Must be repeated each time the partition is assigned.
    pub(super) fn forward(&self, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else { return false };
        // SAFETY: client and name are valid for the call; the queue that comes back is ours to destroy.
        let source = unsafe { native::rd_kafka_queue_get_partition(self.client.client().native_ptr(), topic.as_ptr(), partition) };
        if source.is_null() {
            return false;
        }
        // SAFETY: both queues are valid; forwarding counts the destination, so destroying the source handle is right.
        unsafe {
            native::rd_kafka_queue_forward(source, self.queue.as_ptr());
            native::rd_kafka_queue_destroy(source);
        }
        true
    }

    /// Hands out what is there, up to `limit`; waits up to `wait` for `limit` to be full.
    pub(super) fn take(&mut self, limit: usize, wait: Duration, mut each: impl FnMut(KafkaMessage)) -> usize {
        self.taken.clear();
        self.taken.reserve(limit);
        // SAFETY: the array has room for `limit` pointers; librdkafka writes as many as it returns.
        let count =
            unsafe { native::rd_kafka_consume_batch_queue(self.queue.as_ptr(), milliseconds(wait), self.taken.as_mut_ptr(), limit) };
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: `count` places have been written.
        unsafe { self.taken.set_len(count) };
        for message in self.taken.drain(..) {
            if let Some(message) = NonNull::new(message) {
                each(KafkaMessage { message, slot: 0, _client: self.client.clone() });
            }
        }
        count
    }
}

impl Drop for DataQueue {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, before the client.
        unsafe { native::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// A topic that a consumer reads, held so that its address stays the name of it in messages.
pub(super) struct InputTopic {
    topic: NonNull<native::rd_kafka_topic_t>,
    /// Dropped after the topic.
    _client: ConsumerClient,
}

// SAFETY: topics are counted atomically and locked inside.
unsafe impl Send for InputTopic {}

impl InputTopic {
    pub(super) fn new(client: &ConsumerClient, name: &str) -> Option<InputTopic> {
        let name = CString::new(name).ok()?;
        // SAFETY: client and name are valid for the call; null settings mean the client's own.
        let topic = unsafe { native::rd_kafka_topic_new(client.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        Some(InputTopic { topic: NonNull::new(topic)?, _client: client.clone() })
    }

    pub(super) fn holds(&self, message: &KafkaMessage) -> bool {
        message.raw().rkt == self.topic.as_ptr()
    }
}

impl Drop for InputTopic {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, before the client.
        unsafe { native::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

/// The offset after the last record or marker that was taken from a partition; `None` before the first.
pub(super) fn position(client: &ConsumerClient, topic: &str, partition: i32) -> Option<i64> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, partition);
    // SAFETY: client and list are valid for the call, which fills in the offset.
    unsafe { native::rd_kafka_position(client.client().native_ptr(), list.ptr()) };
    let offset = list.find_partition(topic, partition)?.offset().to_raw()?;
    (offset >= 0).then_some(offset)
}

/// The high watermark that the last fetch of a partition brought; `None` before the first. Asks no broker.
pub(super) fn end_seen(client: &ConsumerClient, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is valid, the name ends in NUL, and both places are written during the call only.
    let code =
        unsafe { native::rd_kafka_get_watermark_offsets(client.client().native_ptr(), topic.as_ptr(), partition, &mut low, &mut high) };
    (code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// Membership in a group, as a transaction carries it (KIP-447): a copy, not tied to the client.
pub struct GroupMetadata(NonNull<native::rd_kafka_consumer_group_metadata_t>);

// SAFETY: plain data with one owner.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    /// `None` for a client that is no member at the moment: a broker takes offsets without a generation from anybody.
    pub(super) fn of(client: &ConsumerClient) -> Option<GroupMetadata> {
        // SAFETY: the client is valid; the copy is ours to destroy.
        let metadata = GroupMetadata(NonNull::new(unsafe { native::rd_kafka_consumer_group_metadata(client.client().native_ptr()) })?);
        // SAFETY: the metadata is valid.
        let generation = unsafe { native::rd_kafka_consumer_group_metadata_generation_id(metadata.0.as_ptr()) };
        // SAFETY: the member id belongs to the metadata and ends in NUL, or is null.
        let has_member = unsafe {
            let member = native::rd_kafka_consumer_group_metadata_member_id(metadata.0.as_ptr());
            !member.is_null() && *member != 0
        };
        (generation >= 0 && has_member).then_some(metadata)
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: made by `of`, destroyed once.
        unsafe { native::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) };
    }
}

/// What a call of a transaction says about its failure.
pub(super) struct TransactionError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
    pub(super) is_fatal: bool,
    pub(super) is_retriable: bool,
    pub(super) requires_abort: bool,
}

/// A call of a transaction that takes nothing but time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TransactionCall {
    Init,
    Begin,
    Commit,
    Abort,
}

pub(super) fn call_transaction(client: &ProducerClient, call: TransactionCall, timeout: Duration) -> Result<(), TransactionError> {
    let (producer, timeout_ms) = (client.client().native_ptr(), milliseconds(timeout));
    // SAFETY: the producer is valid as long as `client` is borrowed; the error that comes back is ours.
    unsafe {
        take_error(match call {
            TransactionCall::Init => native::rd_kafka_init_transactions(producer, timeout_ms),
            TransactionCall::Begin => native::rd_kafka_begin_transaction(producer),
            TransactionCall::Commit => native::rd_kafka_commit_transaction(producer, timeout_ms),
            TransactionCall::Abort => native::rd_kafka_abort_transaction(producer, timeout_ms),
        })
    }
}

pub(super) fn send_offsets(
    client: &ProducerClient,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    timeout: Duration,
) -> Result<(), TransactionError> {
    // SAFETY: producer, list and metadata are valid for the call; the error that comes back is ours.
    unsafe {
        take_error(native::rd_kafka_send_offsets_to_transaction(
            client.client().native_ptr(),
            offsets.ptr(),
            group.0.as_ptr(),
            milliseconds(timeout),
        ))
    }
}

/// # Safety
/// `error` is null, or an error object that the caller owns and gives up.
unsafe fn take_error(error: *mut native::rd_kafka_error_t) -> Result<(), TransactionError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is valid until it is destroyed, which happens once, after its text has been copied.
    unsafe {
        let result = TransactionError {
            code: native::rd_kafka_error_code(error).into(),
            reason: CStr::from_ptr(native::rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            is_fatal: native::rd_kafka_error_is_fatal(error) != 0,
            is_retriable: native::rd_kafka_error_is_retriable(error) != 0,
            requires_abort: native::rd_kafka_error_txn_requires_abort(error) != 0,
        };
        native::rd_kafka_error_destroy(error);
        Err(result)
    }
}

/// Waits until everything sent is acknowledged or has failed. Says whether that came to be in time.
pub(super) fn flush(client: &ProducerClient, timeout: Duration) -> bool {
    // SAFETY: the producer is valid as long as `client` is borrowed; its polling thread serves the reports meanwhile.
    let result = unsafe { native::rd_kafka_flush(client.client().native_ptr(), milliseconds(timeout)) };
    result == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// A record without time and headers, for [`OutputTopic::send_batch`].
pub(super) struct PlainRecord<'a> {
    pub(super) partition: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

/// A topic that a producer writes, looked up once. `handle` comes back with each delivery report.
pub(super) struct OutputTopic {
    topic: NonNull<native::rd_kafka_topic_t>,
    handle: usize,
    batch: Vec<native::rd_kafka_message_t>,
    client: ProducerClient,
}

// SAFETY: topics are counted atomically and locked inside; `batch` is empty between calls.
unsafe impl Send for OutputTopic {}

impl OutputTopic {
    pub(super) fn new(client: &ProducerClient, name: &str, handle: usize) -> Option<OutputTopic> {
        let name = CString::new(name).ok()?;
        // SAFETY: client and name are valid for the call; null settings mean the client's own.
        let topic = unsafe { native::rd_kafka_topic_new(client.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        Some(OutputTopic { topic: NonNull::new(topic)?, handle, batch: Vec::new(), client: client.clone() })
    }

    /// Queues one record with its own time and headers. librdkafka copies.
    pub(super) fn send(&self, record: PlainRecord<'_>, time: Time, headers: &Headers) -> Result<(), RDKafkaErrorCode> {
        use native::rd_kafka_vtype_t as Kind;
        type Value = native::rd_kafka_vu_s__bindgen_ty_1;
        let memory = |bytes: Option<&[u8]>| {
            let (ptr, size) = parts(bytes);
            Value { mem: native::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr, size } }
        };
        let part = |vtype, u| native::rd_kafka_vu_t { vtype, u };
        let list = if headers.is_empty() { None } else { Some(HeaderList::new(headers)) };
        let parts = [
            part(Kind::RD_KAFKA_VTYPE_RKT, Value { rkt: self.topic.as_ptr() }),
            part(Kind::RD_KAFKA_VTYPE_PARTITION, Value { i32_: record.partition }),
            part(Kind::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: native::RD_KAFKA_MSG_F_COPY }),
            part(Kind::RD_KAFKA_VTYPE_VALUE, memory(record.value)),
            part(Kind::RD_KAFKA_VTYPE_KEY, memory(record.key)),
            part(Kind::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: self.handle as *mut c_void }),
            part(Kind::RD_KAFKA_VTYPE_TIMESTAMP, Value { i64_: time.0 }),
            part(Kind::RD_KAFKA_VTYPE_HEADERS, Value { headers: list.as_ref().map_or(ptr::null_mut(), |list| list.0.as_ptr()) }),
        ];
        let count = if list.is_some() { parts.len() } else { parts.len() - 1 };
        // SAFETY: each part has the type its tag names, and what they point at lives through the call, which copies it.
        let error = unsafe { take_error(native::rd_kafka_produceva(self.client.client().native_ptr(), parts.as_ptr(), count)) };
        match error {
            Ok(()) => {
                // The record owns the headers now.
                if let Some(list) = list {
                    std::mem::forget(list);
                }
                Ok(())
            }
            Err(error) => Err(error.code),
        }
    }

    /// Queues records at the least cost, stamped with the time of now. librdkafka copies.
    ///
    /// Returns those that were not taken, by their place. After a full queue nothing that follows is taken, so the rest can
    /// be sent again in its order.
    pub(super) fn send_batch<'a>(&mut self, records: impl Iterator<Item = PlainRecord<'a>>) -> Vec<(usize, RDKafkaErrorCode)> {
        self.batch.clear();
        let handle = self.handle as *mut c_void;
        self.batch.extend(records.map(|record| {
            let ((payload, len), (key, key_len)) = (parts(record.value), parts(record.key));
            native::rd_kafka_message_t {
                err: native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition: record.partition,
                payload,
                len,
                key,
                key_len,
                offset: 0,
                _private: handle,
            }
        }));
        let count = self.batch.len();
        let flags = native::RD_KAFKA_MSG_F_COPY | native::RD_KAFKA_MSG_F_PARTITION;
        // SAFETY: `batch` has `count` records whose keys and values live through the call, which copies them.
        let taken = unsafe { native::rd_kafka_produce_batch(self.topic.as_ptr(), -1, flags, self.batch.as_mut_ptr(), count as c_int) };
        let mut refused = Vec::new();
        if usize::try_from(taken) != Ok(count) {
            let failed = |record: &native::rd_kafka_message_t| record.err != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            refused.extend(self.batch.iter().enumerate().filter(|(_, record)| failed(record)).map(|(at, record)| (at, record.err.into())));
        }
        self.batch.clear();
        refused
    }
}

impl Drop for OutputTopic {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, before the client.
        unsafe { native::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

/// Address and length of bytes; null for none, and never null for empty ones, which are not the same to Kafka.
fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr() as *mut c_void, bytes.len()))
}

/// Headers on their way into a record; destroyed unless the record took them.
struct HeaderList(NonNull<native::rd_kafka_headers_t>);

impl HeaderList {
    fn new(headers: &Headers) -> HeaderList {
        let count = headers.iter().count();
        // SAFETY: makes an empty list, which librdkafka never fails to do.
        let list = unsafe { native::rd_kafka_headers_new(count) };
        let list = HeaderList(NonNull::new(list).unwrap_or_else(|| std::process::abort()));
        for (name, value) in headers.iter() {
            let (value, size) = parts(value.as_deref());
            // SAFETY: list, name and value are valid for the call, which copies them.
            unsafe {
                native::rd_kafka_header_add(list.0.as_ptr(), name.as_ptr().cast::<c_char>(), name.len() as isize, value, size as isize)
            };
        }
        list
    }
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no record has taken it: `send` forgets it then.
        unsafe { native::rd_kafka_headers_destroy(self.0.as_ptr()) };
    }
}

/// Partitions and topic id, or why not, for one topic.
pub(super) type Described = Result<(i32, String), RDKafkaErrorCode>;

/// Describes topics with their ids (KIP-516), in the order of their names.
pub(super) fn describe_topics(
    client: &AdminClient<AdminSide>,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<(String, Described)>, RDKafkaErrorCode> {
    let names: Vec<CString> = names.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let admin = client.inner().native_ptr();
    let timeout_ms = milliseconds(timeout);
    // SAFETY: the client is valid throughout; names live through the call that copies them; options, collection, queue and
    // event are each made and destroyed here once, and what is read from the event is read before it is destroyed.
    unsafe {
        let options = native::rd_kafka_AdminOptions_new(admin, native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let mut unused = [0 as c_char; 64];
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, unused.as_mut_ptr(), unused.len());
        let collection = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let queue = native::rd_kafka_queue_new(admin);
        native::rd_kafka_DescribeTopics(admin, collection, options, queue);
        // The request has a time-out of its own; the event comes in any case.
        let event = native::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1000));
        let result = read_descriptions(event);
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_TopicCollection_destroy(collection);
        native::rd_kafka_AdminOptions_destroy(options);
        result
    }
}

/// # Safety
/// `event` is null or a valid event.
unsafe fn read_descriptions(event: *mut native::rd_kafka_event_t) -> Result<Vec<(String, Described)>, RDKafkaErrorCode> {
    // SAFETY: everything read belongs to the event, which the caller keeps alive.
    unsafe {
        if event.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        let error = native::rd_kafka_event_error(event);
        if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(error.into());
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let topics = if count == 0 { &[] } else { slice::from_raw_parts(topics, count) };
        Ok(topics.iter().map(|topic| read_description(*topic)).collect())
    }
}

/// # Safety
/// `topic` is a valid description.
unsafe fn read_description(topic: *const native::rd_kafka_TopicDescription_t) -> (String, Described) {
    // SAFETY: name, error, partitions and id belong to the description; texts end in NUL.
    unsafe {
        let name = CStr::from_ptr(native::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
        let error = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic));
        if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return (name, Err(error.into()));
        }
        let mut partitions = 0;
        native::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let id = CStr::from_ptr(native::rd_kafka_Uuid_base64str(native::rd_kafka_TopicDescription_topic_id(topic)));
        (name, Ok((i32::try_from(partitions).unwrap_or(i32::MAX), id.to_string_lossy().into_owned())))
    }
}

/// One of the two ends of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The first offset that is still there.
    First,
    /// The high watermark, whatever transactions are open.
    Last,
}

/// Asks the leader of a partition for one of its ends.
pub(super) fn list_offset(
    client: &ConsumerClient,
    topic: &str,
    partition: i32,
    end: End,
    timeout: Duration,
) -> Result<i64, RDKafkaErrorCode> {
    use native::rd_kafka_OffsetSpec_t as Spec;
    let spec = match end {
        End::First => Spec::RD_KAFKA_OFFSET_SPEC_EARLIEST,
        End::Last => Spec::RD_KAFKA_OFFSET_SPEC_LATEST,
    };
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, partition);
    let kafka = client.client().native_ptr();
    let timeout_ms = milliseconds(timeout);
    // SAFETY: the client is valid throughout and the list, of one element, is copied by the call; options, queue and event are
    // each made and destroyed here once, and what is read from the event is read before it is destroyed.
    unsafe {
        (*(*list.ptr()).elems).offset = spec as i64;
        let options = native::rd_kafka_AdminOptions_new(kafka, native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        let mut unused = [0 as c_char; 64];
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, unused.as_mut_ptr(), unused.len());
        let queue = native::rd_kafka_queue_new(kafka);
        native::rd_kafka_ListOffsets(kafka, list.ptr(), options, queue);
        // The request has a time-out of its own; the event comes in any case.
        let event = native::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1000));
        let result = read_offset(event);
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        result
    }
}

/// # Safety
/// `event` is null or a valid event.
unsafe fn read_offset(event: *mut native::rd_kafka_event_t) -> Result<i64, RDKafkaErrorCode> {
    const NONE: native::rd_kafka_resp_err_t = native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: everything read belongs to the event, which the caller keeps alive.
    unsafe {
        if event.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        let error = native::rd_kafka_event_error(event);
        if error != NONE {
            return Err(error.into());
        }
        let result = native::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let infos = native::rd_kafka_ListOffsets_result_infos(result, &mut count);
        if count == 0 {
            return Err(RDKafkaErrorCode::UnknownPartition);
        }
        let found = native::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos);
        if (*found).err != NONE { Err((*found).err.into()) } else { Ok((*found).offset) }
    }
}

/// Reads what the admin client has logged, which nobody polls for; passes it on to the log.
pub(super) fn drain_admin_log(client: &AdminClient<AdminSide>) {
    // SAFETY: the client is valid throughout; the queue handle and each event are ours and destroyed here once; what is read
    // from an event is copied before.
    unsafe {
        let queue = native::rd_kafka_queue_get_main(client.inner().native_ptr());
        loop {
            let event = native::rd_kafka_queue_poll(queue, 0);
            if event.is_null() {
                break;
            }
            let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
            if native::rd_kafka_event_log(event, &mut facility, &mut text, &mut level) == 0 {
                let (facility, text) = (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(text).to_string_lossy());
                client.inner().context().connection.log_native(level, &facility, &text);
            }
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
    }
}

/// librdkafka's form of a time: whole milliseconds, rounded up so that a short wait is one.
fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
}
