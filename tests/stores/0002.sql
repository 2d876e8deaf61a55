BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE artifacts (
	run_key INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	bytes BIGINT NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (run_key, name), 
	CONSTRAINT fk_artifacts_run_key FOREIGN KEY(run_key) REFERENCES runs ("key")
)
 WITHOUT ROWID

;
INSERT INTO "artifacts" VALUES(1,'weights','x/weights.safetensors','ab',3);
CREATE TABLE "attempts" (
	id INTEGER NOT NULL, 
	run_key INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	owner_id INTEGER NOT NULL, 
	host VARCHAR, 
	device VARCHAR, 
	versions VARCHAR, 
	git_commit VARCHAR, 
	git_dirty BOOLEAN, 
	claimed DOUBLE NOT NULL, 
	started DOUBLE, 
	heartbeat DOUBLE, 
	ended DOUBLE, 
	resumed_from INTEGER, 
	outcome VARCHAR, 
	irreproducible BOOLEAN NOT NULL, 
	error VARCHAR, 
	traceback VARCHAR, 
	peak_memory BIGINT, 
	cause VARCHAR, 
	node VARCHAR, 
	threads INTEGER, 
	precision VARCHAR, 
	micro_batch INTEGER, 
	resumed_step INTEGER, 
	data_fingerprint VARCHAR, 
	weights_sha256 VARCHAR, 
	CONSTRAINT pk_attempts PRIMARY KEY (id), 
	CONSTRAINT uq_attempts_run_key_number UNIQUE (run_key, number), 
	CONSTRAINT fk_attempts_run_key FOREIGN KEY(run_key) REFERENCES runs ("key"), 
	CONSTRAINT fk_attempts_owner_id FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT ck_attempts_outcome CHECK (outcome IS NULL OR outcome IN ('done', 'diverged', 'failed', 'cancelled', 'paused', 'died', 'lost'))
);
INSERT INTO "attempts" VALUES(1,1,1,1,'box','cpu','{"torch":"2"}',NULL,NULL,1.79538086070336532591e+09,1.79538086070461702344e+09,NULL,1.79538086071971845622e+09,NULL,'done',0,NULL,NULL,NULL,NULL,'',1,'fp32',16,0,'d','w');
INSERT INTO "attempts" VALUES(2,2,1,1,'box','cpu','{"torch":"2"}',NULL,NULL,1.7953808607261981964e+09,1.79538086072773146631e+09,NULL,1.79538086072914743421e+09,NULL,'done',0,NULL,NULL,NULL,NULL,'',1,'fp32',16,0,'d','w');
INSERT INTO "attempts" VALUES(3,3,1,1,'box','cpu','{"torch":"2"}',NULL,NULL,1.79538086073408222195e+09,1.79538086073476910588e+09,NULL,1.79538086074161338809e+09,NULL,'diverged',0,'the loss is nan',NULL,NULL,'diverged','',1,'fp32',16,0,'d','w');
INSERT INTO "attempts" VALUES(4,4,1,1,'box','cpu','{"torch":"2"}',NULL,NULL,1.795380860746165514e+09,1.79538086074677944187e+09,NULL,1.79538086074729967122e+09,NULL,'failed',0,'KeyError: ''x''','Traceback …',NULL,'bug','',1,'fp32',16,0,'d','w');
INSERT INTO "attempts" VALUES(5,5,1,1,'box','cpu','{"torch":"2"}',NULL,NULL,1.79538086074989533427e+09,1.79538086075032687189e+09,NULL,1795380860.75158,NULL,'done',0,NULL,NULL,NULL,NULL,'',1,'fp32',16,0,'d','w');
INSERT INTO "attempts" VALUES(6,7,1,1,'','','{}',NULL,NULL,1.79538086079425191878e+09,1.79538086079483366012e+09,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,'',NULL,0,'','');
CREATE TABLE dependencies (
	run_key INTEGER NOT NULL, 
	needs_key INTEGER NOT NULL, 
	CONSTRAINT pk_dependencies PRIMARY KEY (run_key, needs_key), 
	CONSTRAINT fk_dependencies_needs_key FOREIGN KEY(needs_key) REFERENCES runs ("key"), 
	CONSTRAINT fk_dependencies_run_key FOREIGN KEY(run_key) REFERENCES runs ("key")
)
 WITHOUT ROWID

;
INSERT INTO "dependencies" VALUES(2,1);
INSERT INTO "dependencies" VALUES(3,1);
INSERT INTO "dependencies" VALUES(4,1);
INSERT INTO "dependencies" VALUES(5,1);
INSERT INTO "dependencies" VALUES(6,1);
INSERT INTO "dependencies" VALUES(7,1);
INSERT INTO "dependencies" VALUES(8,1);
CREATE TABLE epochs (
	run_key INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	train_loss DOUBLE, 
	train_accuracy DOUBLE, 
	learning_rate DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	images_per_second DOUBLE NOT NULL, 
	CONSTRAINT pk_epochs PRIMARY KEY (run_key, epoch), 
	CONSTRAINT fk_epochs_run_key FOREIGN KEY(run_key) REFERENCES runs ("key")
)
 WITHOUT ROWID

;
INSERT INTO "epochs" VALUES(1,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(1,1,1,1.0,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,0,1,NULL,NULL,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,1,1,1.0,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,2,1,0.5,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(2,3,1,3.33333333333333314829e-01,0.5,0.1,0.0,0.0);
INSERT INTO "epochs" VALUES(3,0,1,NULL,NULL,0.2,0.0,0.0);
INSERT INTO "epochs" VALUES(3,1,1,1.0,0.5,0.2,0.0,0.0);
INSERT INTO "epochs" VALUES(4,0,1,NULL,NULL,0.3,0.0,0.0);
INSERT INTO "epochs" VALUES(7,0,1,NULL,NULL,0.6,0.0,0.0);
CREATE TABLE metrics (
	run_key INTEGER NOT NULL, 
	split VARCHAR NOT NULL, 
	"group" VARCHAR NOT NULL, 
	metric VARCHAR NOT NULL, 
	epoch INTEGER NOT NULL, 
	value DOUBLE NOT NULL, 
	correct INTEGER, 
	n INTEGER, 
	CONSTRAINT pk_metrics PRIMARY KEY (run_key, split, "group", metric, epoch), 
	CONSTRAINT fk_metrics_run_key_epoch FOREIGN KEY(run_key, epoch) REFERENCES epochs (run_key, epoch)
)
 WITHOUT ROWID

;
INSERT INTO "metrics" VALUES(1,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(1,'id','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(1,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(1,'ood','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',2,0.52,NULL,100);
INSERT INTO "metrics" VALUES(2,'id','','accuracy',3,0.53,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',2,0.52,NULL,100);
INSERT INTO "metrics" VALUES(2,'ood','','accuracy',3,0.53,NULL,100);
INSERT INTO "metrics" VALUES(3,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(3,'id','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(3,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(3,'ood','','accuracy',1,0.51,NULL,100);
INSERT INTO "metrics" VALUES(4,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(4,'ood','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(7,'id','','accuracy',0,0.5,NULL,100);
INSERT INTO "metrics" VALUES(7,'ood','','accuracy',0,0.5,NULL,100);
CREATE TABLE owners (
	id INTEGER NOT NULL, 
	host VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	boot_id VARCHAR NOT NULL, 
	process_started VARCHAR NOT NULL, 
	started DOUBLE NOT NULL, 
	heartbeat DOUBLE NOT NULL, 
	ended DOUBLE, ttl DOUBLE DEFAULT '60' NOT NULL, 
	CONSTRAINT pk_owners PRIMARY KEY (id)
);
INSERT INTO "owners" VALUES(1,'elsewhere.example',4711,'boot','77',1.7953808606949806213e+09,1.7953808606949806213e+09,NULL,60.0);
CREATE TABLE "runs" (
	"key" INTEGER NOT NULL, 
	id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	dataset VARCHAR NOT NULL, 
	method VARCHAR NOT NULL, 
	learning_rate DOUBLE NOT NULL, 
	hyperparameters VARCHAR NOT NULL, 
	seed INTEGER NOT NULL, 
	variant VARCHAR NOT NULL, 
	epochs INTEGER NOT NULL, 
	content VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	owner_id INTEGER, 
	fence INTEGER NOT NULL, 
	data_fingerprint VARCHAR, 
	weights_sha256 VARCHAR, 
	CONSTRAINT pk_runs PRIMARY KEY ("key"), 
	CONSTRAINT uq_runs_id UNIQUE (id), 
	CONSTRAINT ck_runs_owned_while_running CHECK ((state = 'running') = (owner_id IS NOT NULL)), 
	CONSTRAINT fk_runs_owner_id FOREIGN KEY(owner_id) REFERENCES owners (id), 
	CONSTRAINT ck_runs_state CHECK (state IN ('pending', 'running', 'done', 'diverged', 'failed', 'cancelled', 'voided'))
);
INSERT INTO "runs" VALUES(1,'5bd32ad96ba5f446','pretrain','toy','toy','sgd',0.1,'{}',0,'01e12b85',1,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":1,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"pretrain","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"random"}','done',NULL,1,'d','w');
INSERT INTO "runs" VALUES(2,'0eda862f1a180faa','finetune','toy','toy','sgd',0.1,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.1,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','done',NULL,1,'d','w');
INSERT INTO "runs" VALUES(3,'9eabb08a0b6ab7ed','finetune','toy','toy','sgd',0.2,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.2,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','diverged',NULL,1,'d','w');
INSERT INTO "runs" VALUES(4,'c7f6b89e415716c5','finetune','toy','toy','sgd',0.3,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.3,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','failed',NULL,1,'d','w');
INSERT INTO "runs" VALUES(5,'3dac77722ccb4c25','finetune','toy','toy','sgd',0.4,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.4,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','voided',NULL,1,NULL,NULL);
INSERT INTO "runs" VALUES(6,'67876e9d25cc01e4','finetune','toy','toy','sgd',0.5,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.5,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','cancelled',NULL,0,NULL,NULL);
INSERT INTO "runs" VALUES(7,'a2dbba7d582d1cd7','finetune','toy','toy','sgd',0.6,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.6,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','running',1,1,'','');
INSERT INTO "runs" VALUES(8,'dc264a5930f9ee23','finetune','toy','toy','sgd',0.9,'{}',0,'24d33649',3,'{"batch_size":32,"clip_norm":null,"dataset":"toy","dataset_version":1,"epochs":3,"evaluate":["id","ood"],"evaluate_on_improvement":[],"hyperparameters":[],"kind":"finetune","kind_version":1,"learning_rate":0.9,"method":"sgd","method_version":1,"micro_batch":16,"model":"toy","model_version":1,"precision":"fp32","schedule":"cosine_per_step","seed":0,"threads":1,"weight_decay":0.0,"weights":"run:5bd32ad96ba5f446"}','pending',NULL,0,NULL,NULL);
CREATE TABLE sweep_runs (
	sweep_id INTEGER NOT NULL, 
	run_key INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	requested BOOLEAN NOT NULL, extended BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_sweep_runs PRIMARY KEY (sweep_id, run_key), 
	CONSTRAINT fk_sweep_runs_run_key FOREIGN KEY(run_key) REFERENCES runs ("key"), 
	CONSTRAINT fk_sweep_runs_sweep_id FOREIGN KEY(sweep_id) REFERENCES sweeps (id)
)
 WITHOUT ROWID

;
INSERT INTO "sweep_runs" VALUES(1,1,0,0,0);
INSERT INTO "sweep_runs" VALUES(1,2,1,1,0);
INSERT INTO "sweep_runs" VALUES(1,3,2,1,0);
INSERT INTO "sweep_runs" VALUES(1,4,3,1,0);
INSERT INTO "sweep_runs" VALUES(1,5,4,1,0);
INSERT INTO "sweep_runs" VALUES(1,6,5,1,0);
INSERT INTO "sweep_runs" VALUES(1,7,6,1,0);
INSERT INTO "sweep_runs" VALUES(1,8,7,1,1);
INSERT INTO "sweep_runs" VALUES(2,1,0,0,0);
INSERT INTO "sweep_runs" VALUES(2,2,1,1,0);
INSERT INTO "sweep_runs" VALUES(2,3,2,1,0);
CREATE TABLE sweeps (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	yaml VARCHAR NOT NULL, 
	spec_hash VARCHAR NOT NULL, 
	created DOUBLE NOT NULL, 
	CONSTRAINT pk_sweeps PRIMARY KEY (id), 
	CONSTRAINT uq_sweeps_name UNIQUE (name)
);
INSERT INTO "sweeps" VALUES(1,'first','name: first
','df82c26e2d8b342a',1.79538086067650389668e+09);
INSERT INTO "sweeps" VALUES(2,'second','name: second
','5e7aa9697932b6e1',1.79538086068473625184e+09);
CREATE TABLE voids (
	id INTEGER NOT NULL, 
	run_key INTEGER NOT NULL, 
	voided DOUBLE NOT NULL, 
	reason VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	history VARCHAR NOT NULL, 
	artifacts VARCHAR NOT NULL, 
	CONSTRAINT pk_voids PRIMARY KEY (id), 
	CONSTRAINT fk_voids_run_key FOREIGN KEY(run_key) REFERENCES runs ("key"), 
	CONSTRAINT uq_voids_run_key_voided UNIQUE (run_key, voided)
);
INSERT INTO "voids" VALUES(1,5,1.79538086076033306121e+09,'wrong labels','done',1,'[{"epoch":0,"images_per_second":0.0,"learning_rate":0.4,"metrics":[{"correct":null,"group":"","metric":"accuracy","n":100,"split":"id","value":0.5},{"correct":null,"group":"","metric":"accuracy","n":100,"split":"ood","value":0.5}],"seconds":0.0,"train_accuracy":null,"train_loss":null},{"epoch":1,"images_per_second":0.0,"learning_rate":0.4,"metrics":[{"correct":null,"group":"","metric":"accuracy","n":100,"split":"id","value":0.51},{"correct":null,"group":"","metric":"accuracy","n":100,"split":"ood","value":0.51}],"seconds":0.0,"train_accuracy":0.5,"train_loss":1.0},{"epoch":2,"images_per_second":0.0,"learning_rate":0.4,"metrics":[{"correct":null,"group":"","metric":"accuracy","n":100,"split":"id","value":0.52},{"correct":null,"group":"","metric":"accuracy","n":100,"split":"ood","value":0.52}],"seconds":0.0,"train_accuracy":0.5,"train_loss":0.5},{"epoch":3,"images_per_second":0.0,"learning_rate":0.4,"metrics":[{"correct":null,"group":"","metric":"accuracy","n":100,"split":"id","value":0.53},{"correct":null,"group":"","metric":"accuracy","n":100,"split":"ood","value":0.53}],"seconds":0.0,"train_accuracy":0.5,"train_loss":0.3333333333333333}]','[]');
CREATE INDEX ix_sweep_runs_run_key ON sweep_runs (run_key);
CREATE INDEX ix_runs_state ON runs (state);
CREATE INDEX ix_runs_model_dataset_method ON runs (model, dataset, method);
COMMIT;
