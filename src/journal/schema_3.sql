-- Out of `about`, so that runs are found by it.
ALTER TABLE runs ADD COLUMN workflow TEXT NOT NULL DEFAULT '';
UPDATE runs SET workflow = coalesce(about ->> '$.workflow.id', '') WHERE json_valid(about);
CREATE INDEX runs_by_age ON runs (created DESC, no DESC) WHERE parent IS NULL;
CREATE INDEX runs_by_workflow ON runs (workflow, created DESC, no DESC) WHERE parent IS NULL;
