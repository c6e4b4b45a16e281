//! The calls of `nearfield.v1` as functions: which path, which key, and whether it may be repeated.

use nearfield_proto::v1;

use super::call::CallContext;
use super::class::Class;
use super::grpc::Messages;
use super::upstream::{Call, Upstream};
use crate::error::Error;

impl Upstream {
    pub async fn search(&self, ctx: &CallContext, request: &v1::SearchRequest) -> Result<v1::SearchResponse, Error> {
        self.unary(
            &read(ctx, Class::Search, "/nearfield.v1.VectorSearch/Search", &request.collection, &request.session),
            request,
        )
        .await
    }

    /// The first hit, when there is one, and the stream of the others. A failure before the first is an error here.
    pub async fn stream_search(
        &self,
        ctx: &CallContext,
        request: &v1::SearchRequest,
    ) -> Result<(Option<v1::SearchResult>, Messages<v1::SearchResult>), Error> {
        self.streaming(
            &read(ctx, Class::Search, "/nearfield.v1.VectorSearch/StreamSearch", &request.collection, &request.session),
            request,
        )
        .await
    }

    pub async fn batch_search(
        &self,
        ctx: &CallContext,
        request: &v1::BatchSearchRequest,
    ) -> Result<v1::BatchSearchResponse, Error> {
        self.unary(&list(ctx, Class::Batch, "/nearfield.v1.VectorSearch/BatchSearch"), request).await
    }

    pub async fn fetch(&self, ctx: &CallContext, request: &v1::FetchRequest) -> Result<v1::FetchResponse, Error> {
        self.unary(
            &read(ctx, Class::Lookup, "/nearfield.v1.VectorSearch/Fetch", &request.collection, &request.session),
            request,
        )
        .await
    }

    /// As [`Upstream::fetch`]; when nothing is found and no session tells what to wait for, whoever takes the
    /// collection's writes is asked too.
    pub async fn fetch_somewhere(
        &self,
        ctx: &CallContext,
        request: &v1::FetchRequest,
    ) -> Result<v1::FetchResponse, Error> {
        let fetched = self.fetch(ctx, request).await?;
        let home = ctx.write_key(&request.collection);
        if !fetched.records.is_empty() || !request.session.is_empty() || self.is_same(ctx.read_key(), home) {
            return Ok(fetched);
        }
        let path = "/nearfield.v1.VectorSearch/Fetch";
        let call = Call { path, context: ctx, key: home, home: None, class: Class::Lookup, headers: None };
        self.unary(&call, request).await
    }

    pub async fn scan(
        &self,
        ctx: &CallContext,
        request: &v1::ScanRequest,
    ) -> Result<(Option<v1::Record>, Messages<v1::Record>), Error> {
        self.streaming(
            &read(ctx, Class::Scan, "/nearfield.v1.VectorSearch/Scan", &request.collection, &request.session),
            request,
        )
        .await
    }

    pub async fn insert(&self, ctx: &CallContext, request: &v1::InsertRequest) -> Result<v1::InsertResponse, Error> {
        let _writing = ctx.writing(&request.collection);
        self.unary(&write(ctx, "/nearfield.v1.VectorSearch/Insert", &request.collection), request).await
    }

    pub async fn update(&self, ctx: &CallContext, request: &v1::UpdateRequest) -> Result<v1::UpdateResponse, Error> {
        let _writing = ctx.writing(&request.collection);
        self.unary(&write(ctx, "/nearfield.v1.VectorSearch/Update", &request.collection), request).await
    }

    pub async fn delete(&self, ctx: &CallContext, request: &v1::DeleteRequest) -> Result<v1::DeleteResponse, Error> {
        let _writing = ctx.writing(&request.collection);
        self.unary(&write(ctx, "/nearfield.v1.VectorSearch/Delete", &request.collection), request).await
    }

    pub async fn create_collection(
        &self,
        ctx: &CallContext,
        request: &v1::CreateCollectionRequest,
    ) -> Result<v1::CreateCollectionResponse, Error> {
        let _writing = ctx.writing(&request.name);
        self.unary(&write(ctx, "/nearfield.v1.Collections/Create", &request.name), request).await
    }

    pub async fn delete_collection(
        &self,
        ctx: &CallContext,
        request: &v1::DeleteCollectionRequest,
    ) -> Result<v1::DeleteCollectionResponse, Error> {
        let _writing = ctx.writing(&request.name);
        self.unary(&write(ctx, "/nearfield.v1.Collections/Delete", &request.name), request).await
    }

    pub async fn list_collections(
        &self,
        ctx: &CallContext,
        request: &v1::ListCollectionsRequest,
    ) -> Result<v1::ListCollectionsResponse, Error> {
        self.unary(&list(ctx, Class::Lookup, "/nearfield.v1.Collections/List"), request).await
    }

    pub async fn describe_collection(
        &self,
        ctx: &CallContext,
        request: &v1::DescribeCollectionRequest,
    ) -> Result<v1::Collection, Error> {
        self.unary(
            &read(ctx, Class::Lookup, "/nearfield.v1.Collections/Describe", &request.name, &request.session),
            request,
        )
        .await
    }

    pub async fn measure_recall(
        &self,
        ctx: &CallContext,
        request: &v1::MeasureRecallRequest,
    ) -> Result<v1::MeasureRecallResponse, Error> {
        let path = "/nearfield.v1.Collections/MeasureRecall";
        self.unary(&read(ctx, Class::Measure, path, &request.name, &request.session), request).await
    }
}

/// A read of all that a caller has.
fn list<'a>(context: &'a CallContext, class: Class, path: &'static str) -> Call<'a> {
    Call { path, context, key: context.read_key(), home: None, class, headers: None }
}

/// A read of one collection. With a session its searchd waits for what it lacks; without one, whoever takes the
/// collection's writes is asked before something is said not to be there.
fn read<'a>(context: &'a CallContext, class: Class, path: &'static str, collection: &str, session: &str) -> Call<'a> {
    let home = session.is_empty().then(|| context.write_key(collection));
    Call { path, context, key: context.read_key(), home, class, headers: None }
}

fn write<'a>(context: &'a CallContext, path: &'static str, collection: &str) -> Call<'a> {
    Call { path, context, key: context.write_key(collection), home: None, class: Class::Write, headers: None }
}
