//! The gRPC contract, generated from `proto/`. `v1` is public; `log` is what searchds write and tell one another, `admin`
//! what operators ask of them.

// Generated code keeps its generator's style.
#![allow(clippy::all, unreachable_pub, unused_qualifications)]

pub mod load;

/// The public API, package `nearfield.v1`.
pub mod v1 {
    tonic::include_proto!("nearfield.v1");
}

/// What operators ask of a running searchd, package `nearfield.admin.v1`.
pub mod admin {
    pub mod v1 {
        tonic::include_proto!("nearfield.admin.v1");
    }
}

/// The log entries and the replication service, package `nearfield.log.v1`.
pub mod log {
    pub mod v1 {
        tonic::include_proto!("nearfield.log.v1");
    }
}

/// The serialized `FileDescriptorSet` of the public API, for server reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");

/// The gRPC metadata key that carries the caller's tenant from the gateway to searchd.
pub const TENANT_METADATA: &str = "nearfield-tenant";

/// The gRPC metadata key by which a gateway says for which areas a searchd's region may hold data, with commas between; absent: for
/// all.
pub const AREAS_METADATA: &str = "nearfield-areas";
