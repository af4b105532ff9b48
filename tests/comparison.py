"""What proves each row of the comparison in README.rst: for each feature, tests of this project."""

PROOFS = {
    "Start and wait in one operator": [
        "base/test_operator.py::test_a_run_that_succeeds_gives_its_id_and_page"
    ],
    "Deferrable operator": [
        "system/test_runs.py::test_a_chalk_run_succeeds_while_its_task_is_deferred",
        "system/test_runs.py::test_a_paradime_run_succeeds_while_its_task_is_deferred",
        "system/test_runs.py::test_a_strait_run_succeeds_while_its_task_is_deferred_and_leaves_its_result",
        "real/test_airflow.py::test_a_pipeline_succeeds_while_its_task_is_deferred",
    ],
    "Deferrable sensor for a run's id": [
        "system/test_runs.py::test_a_deferred_sensor_waits_for_the_run_of_another_task",
        "test_run_ids.py::test_a_list_that_succeeds_gives_its_ids",
    ],
    "One sensor for many runs, in batches": [
        "test_run_ids.py::test_a_list_that_succeeds_gives_its_ids",
        "test_run_ids.py::test_a_look_at_a_hundred_runs_is_made_of_batches",
    ],
    "Start without waiting": [
        "base/test_operator.py::test_a_task_that_does_not_wait_is_done_when_the_run_is_started"
    ],
    "Ending a deferred task cancels the run (3.3)": [
        "system/test_runs.py::test_marking_a_deferred_task_cancels_its_paradime_run_once",
        "system/test_runs.py::test_marking_a_deferred_task_cancels_its_strait_run_once",
        "system/test_runs.py::test_marking_a_waiting_task_cancels_its_run",
        "crash/test_crash.py::test_case",
    ],
    "Ending a task on a worker cancels the run": [
        "test_verdicts.py::test_a_person_who_ends_a_task_on_a_worker_has_its_run_cancelled_where_that_can_be",
        "system/test_runs.py::test_marking_a_waiting_task_cancels_its_run",
        "crash/test_crash.py::test_case",
    ],
    "cancel_on_kill switch": [
        "base/test_trigger.py::test_cancel_on_kill_off_sends_nothing",
        "base/test_operator.py::test_a_killed_task_sends_no_cancel_where_it_must_not",
    ],
    "execution_timeout while deferred cancels the run": [
        "base/test_operator.py::test_an_execution_timeout_cancels_the_run_unless_told_otherwise",
        "test_outages.py::test_execution_timeout_during_an_outage_cancels_the_run_afterwards",
    ],
    "A limit on the wait of one's own": [
        "base/test_operator.py::test_a_wait_that_takes_too_long_leaves_the_run_unless_told_otherwise"
    ],
    "A retry goes on with the run, on a worker (3.3)": [
        "system/test_durability.py::test_a_killed_task_process_is_followed_by_a_retry_that_goes_on_with_the_run",
        "test_outages.py::test_a_retry_during_the_outage_goes_on_with_the_run_too",
    ],
    "A retry goes on with the run, deferred (3.3)": [
        "base/test_operator.py::test_a_retry_attaches_in_either_way",
        "test_outages.py::test_a_retry_during_the_outage_goes_on_with_the_run_too",
    ],
    "Starts that cannot be doubled, by default": [
        "test_verdicts.py::test_a_start_whose_answer_is_lost_makes_one_run",
        "base/test_start.py::test_a_run_whose_answer_was_lost_is_found_in_the_same_try",
        "crash/test_crash.py::test_case",
    ],
    "Takes up a run that is already going": [
        "test_verdicts.py::test_a_task_takes_up_a_run_that_goes_already_where_runs_can_be_listed",
        "base/test_operator.py::test_a_run_of_others_is_waited_for_and_survives_every_deadline",
    ],
    "Retry from failure": [
        "mage/test_tasks.py::test_a_retry_of_the_task_runs_the_failed_blocks_of_its_own_run_again",
        "paradime/test_peer_table.py::test_retry_from_failure_is_of_the_tasks_own_run",
        "strait/test_operators.py::test_a_retry_of_the_task_replays_once_more_where_the_replay_ended_badly",
    ],
    "A 503 while deferred is ridden out": ["test_outages.py::test_server_errors"],
    "A 429 while deferred is ridden out": ["test_outages.py::test_429_whose_retry_after_is_obeyed"],
    "Retry-After is obeyed": [
        "core/test_drivers.py::test_retry_after_is_obeyed",
        "base/test_poller.py::test_retry_after_holds_every_request_back",
    ],
    "A 404 early in the wait is ridden out": ["test_outages.py::test_a_run_that_is_not_found_at_first"],
    "Request timeout by default": [
        "core/test_api.py::test_limits_come_from_the_connection",
        "core/test_drivers.py::test_the_connections_timeout_bounds_the_wait_for_an_answer",
    ],
    '"Cannot ask" is told from "has failed"': [
        "base/test_operator.py::test_a_service_that_cannot_be_asked_is_no_verdict_and_may_be_retried"
    ],
    "An unknown status: a warning, then bounded": [
        "test_verdicts.py::test_an_unknown_status_is_warned_of_once_and_then_ends_the_wait_as_no_verdict",
        "core/test_progress.py::test_a_run_that_stays_in_an_unknown_status_ends_the_wait_as_unknown",
    ],
    "The event of a trigger is checked, else failure": [
        "base/test_operator.py::test_an_event_that_cannot_be_relied_on_is_a_failure",
        "core/test_outcome.py::test_any_other_event_is_refused_and_never_reads_as_success",
    ],
    "The tool's error in the task's log": [
        "system/test_runs.py::test_a_failed_mage_run_brings_its_blocks_error_into_the_task_log",
        "system/test_runs.py::test_a_failed_paradime_run_brings_its_failing_commands_text_into_the_task_log",
        "system/test_runs.py::test_a_dead_letter_of_strait_says_why_and_what_to_do_in_the_task_log",
    ],
    "Button to the remote run": [
        "browser/test_pages.py::test_a_task_is_seen_to_defer_and_to_succeed_with_its_link_and_log"
    ],
    "Run id and address before the wait": [
        "base/test_operator.py::test_id_and_page_are_known_before_anything_waits"
    ],
    "Same return value in every mode": [
        "base/test_operator.py::test_a_run_that_succeeds_gives_its_id_and_page",
        "base/test_sensor.py::test_a_run_that_succeeds_gives_its_id_and_page",
    ],
    "Connection id and all run arguments templated": [
        "test_contract.py::test_every_argument_of_a_run_is_templated",
        "test_contract.py::test_template_fields_are_arguments_and_attributes",
    ],
    "No hook in the constructor": ["test_contract.py::test_constructing_a_task_makes_no_hook"],
    "Test of the connection": ["test_check.py::test_a_good_connection_works"],
    "Declared form fields on 3.3": ["system/test_listing.py::test_the_connection_form_has_every_field"],
    "Proxy from the connection": [
        "core/test_sessions.py::test_a_proxy_leads_to_a_service_with_a_private_authority"
    ],
    "Proxy of the environment while deferred": [
        "core/test_drivers.py::test_the_proxy_of_the_environment_is_used"
    ],
    "Authorities and client certificate on the connection": [
        "core/test_sessions.py::test_a_client_certificate_is_shown_to_the_service",
        "core/test_sessions.py::test_a_private_authority_is_trusted_where_the_connection_names_it",
    ],
    "A token is renewed in a long wait": [
        "test_outages.py::test_a_token_that_expires_in_the_middle_is_renewed_without_a_word"
    ],
    "A remote cancel fails without a retry": [
        "test_verdicts.py::test_a_run_that_was_cancelled_in_the_tool_is_not_retried"
    ],
    "Rules that skip a task by the run's status": ["test_verdicts.py::test_a_status_may_skip_the_task"],
    "OpenLineage": [
        "system/test_lineage.py::test_the_events_of_a_task_and_of_all_that_dbt_did_in_its_run_can_be_read_back"
    ],
    "py.typed": ["published/test_published.py::test_the_wheel_holds_the_package_and_nothing_else"],
    "No warning on import on 3.3": [
        "test_layers.py::test_importing_what_dags_import_warns_of_nothing",
    ],
}
