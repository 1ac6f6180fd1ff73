//! Errors of the whole extension and their one mapping to SQLSTATE, detail and hint.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;

/// What kind of thing went wrong; decides the SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Exists,
    InvalidArgument,
    NotIncremental,
    Cycle,
    HasDependents,
    Permission,
    State,
    /// A refresh must not be done now: held back, out of the schedule, overtaken by definitions.
    MustWait,
    /// This stream table's fuse ended a refresh that found this many changes.
    FuseBlown {
        id: i64,
        rows: u64,
    },
    SourceChanged,
    /// Adding up the changes does not explain the result.
    Unexplained,
    TooMany,
    Serialization,
    InUse,
    /// An object that is no relation exists.
    DuplicateObject,
    /// An object that is no relation does not exist.
    UndefinedObject,
    /// A defect of this program.
    Internal,
}

impl Kind {
    fn code(self) -> Code {
        match self {
            Kind::NotFound => Code::ERRCODE_UNDEFINED_TABLE,
            Kind::Exists => Code::ERRCODE_DUPLICATE_TABLE,
            Kind::InvalidArgument => Code::ERRCODE_INVALID_PARAMETER_VALUE,
            Kind::NotIncremental => Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            Kind::Cycle => Code::ERRCODE_INVALID_RECURSION,
            Kind::HasDependents => Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            Kind::Permission => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Kind::State | Kind::MustWait | Kind::FuseBlown { .. } => {
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Kind::SourceChanged => Code::ERRCODE_INVALID_OBJECT_DEFINITION,
            Kind::Unexplained => Code::ERRCODE_DATA_EXCEPTION,
            Kind::TooMany => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Kind::DuplicateObject => Code::ERRCODE_DUPLICATE_OBJECT,
            Kind::UndefinedObject => Code::ERRCODE_UNDEFINED_OBJECT,
            Kind::InUse => Code::ERRCODE_OBJECT_IN_USE,
            Kind::Serialization => Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Kind::Internal => Code::ERRCODE_INTERNAL_ERROR,
        }
    }
}

/// An error with what the user can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    pub fn code(&self) -> Code {
        self.kind.code()
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        let mut report = ErrorReport::new(error.kind.code(), error.message, "pg_trickle");
        if let Some(detail) = error.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint {
            report = report.set_hint(hint);
        }
        report
    }
}

impl From<pgt_ivm::rel::Malformed> for Error {
    fn from(malformed: pgt_ivm::rel::Malformed) -> Error {
        Error::new(
            Kind::Internal,
            format!("malformed relational tree: {malformed}"),
        )
    }
}

pub type Result<T> = std::result::Result<T, Error>;
