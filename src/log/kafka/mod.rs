//! The log as Apache Kafka, through librdkafka. The only folder that names rdkafka.
