//! One contract for each port, run on the fake and on every real implementation.

mod api_keys;
mod commits;
mod contents;
mod finding;
mod lifecycle;
mod quotas;
mod samples;
mod store;
mod updates;

pub(crate) use api_keys::api_key_contract;
pub(crate) use lifecycle::lifecycle_contract;
pub(crate) use samples::{a_commit, key_path};
pub(crate) use store::store_contract;

use crate::application::fakes::block_on;
use crate::application::ports::ObjectRepository;

/// Runs every case on a repository of its own, made by `make`.
pub(crate) fn repository_contract<R: ObjectRepository>(make: impl Fn() -> R) {
    block_on(async {
        finding::committed_objects_are_found_by_id_and_key(&make()).await;
        finding::an_id_out_of_reach_is_one_that_does_not_exist(&make()).await;
        finding::many_are_found_as_each_is(&make()).await;
        commits::a_reservation_is_seen_and_can_be_taken_back(&make()).await;
        commits::the_newest_version_of_a_key_serves(&make()).await;
        commits::conditional_commits_compare_and_swap(&make()).await;
        commits::deletes_forget_and_reveal(&make()).await;
        contents::the_same_content_shares_its_place(&make()).await;
        contents::a_content_is_there_for_whoever_has_it(&make()).await;
        contents::a_lease_outlives_the_object_that_it_was_taken_by(&make()).await;
        contents::a_reference_takes_the_copy_that_is_there(&make()).await;
        commits::what_is_committed_again_is_one_object(&make()).await;
        commits::a_lost_copy_is_mended_once(&make()).await;
        updates::updates_are_made_to_what_was_seen(&make()).await;
        updates::who_gives_a_key_makes_its_newest_version(&make()).await;
        updates::moves_count_a_content_where_it_is(&make()).await;
        finding::listings_page_newest_first(&make()).await;
        finding::everything_of_an_object_comes_back(&make()).await;
        quotas::usage_follows_commits_and_deletes(&make()).await;
        quotas::limits_are_kept_by_room_and_by_commit(&make()).await;
    });
}
