//! `image`, `image_hash`, `row_hash`: bytes and hashes of arbitrary values.
//!
//! `image` is an injective encoding of the values' stored bytes (detoasted): two rows have equal images exactly when they
//! are the same bytes. `row_hash` uses each type's own extended hash function, so that values equal under `=` hash alike,
//! and combines them with xxh3.

use std::cell::Cell;
use std::ffi::c_void;

use pgrx::pg_guard;
use pgrx::pg_sys;
use xxhash_rust::xxh3::Xxh3Default;

/// What is remembered between calls from one place, per argument.
struct ArgumentType {
    oid: pg_sys::Oid,
    length: i16,
    by_value: bool,
    composite: bool,
    /// The type's extended hash function, once it has been needed.
    hash: Cell<*mut pg_sys::FmgrInfo>,
}

impl ArgumentType {
    fn new(oid: pg_sys::Oid, length: i16, by_value: bool) -> ArgumentType {
        // SAFETY: catalog lookup.
        let composite = length == -1 && unsafe { pg_sys::type_is_rowtype(oid) };
        ArgumentType {
            oid,
            length,
            by_value,
            composite,
            hash: Cell::new(std::ptr::null_mut()),
        }
    }
}

/// The types of the call's arguments, looked up once and kept with the call site.
unsafe fn argument_types(fcinfo: pg_sys::FunctionCallInfo) -> &'static [ArgumentType] {
    // SAFETY: fcinfo is valid for the call; fn_mcxt lives as long as fn_extra.
    unsafe {
        let info = (*fcinfo).flinfo;
        let count = (*fcinfo).nargs as usize;
        if (*info).fn_extra.is_null() {
            let bytes = size_of::<ArgumentType>() * count.max(1);
            let types: *mut ArgumentType =
                pg_sys::MemoryContextAllocZero((*info).fn_mcxt, bytes).cast();
            for position in 0..count {
                let oid = pg_sys::get_fn_expr_argtype(info, position as i32);
                if oid == pg_sys::InvalidOid {
                    pgrx::error!("could not determine the type of argument {}", position + 1);
                }
                let mut length = 0;
                let mut by_value = false;
                pg_sys::get_typlenbyval(oid, &raw mut length, &raw mut by_value);
                types
                    .add(position)
                    .write(ArgumentType::new(oid, length, by_value));
            }
            (*info).fn_extra = types.cast::<c_void>();
        }
        std::slice::from_raw_parts((*info).fn_extra.cast::<ArgumentType>(), count)
    }
}

/// Feeds the stored bytes of one non-null value to `sink`.
unsafe fn with_bytes(value: pg_sys::Datum, ty: &ArgumentType, sink: &mut dyn FnMut(&[u8])) {
    // SAFETY: the datum is of the type described.
    unsafe {
        if ty.by_value {
            sink(&value.value().to_le_bytes()[..ty.length as usize]);
        } else if ty.length > 0 {
            sink(std::slice::from_raw_parts(
                value.cast_mut_ptr::<u8>(),
                ty.length as usize,
            ));
        } else if ty.length == -1 {
            let original = value.cast_mut_ptr::<pg_sys::varlena>();
            let plain = pg_sys::pg_detoast_datum_packed(original);
            sink(pgrx::varlena_to_byte_slice(plain));
            if plain != original {
                pg_sys::pfree(plain.cast());
            }
        } else {
            sink(std::ffi::CStr::from_ptr(value.cast_mut_ptr()).to_bytes());
        }
    }
}

/// Feeds the injective encoding of a value of any type to `sink`: a null marker, then length and bytes. A composite value
/// is encoded attribute by attribute: its header holds bits that say nothing about the value.
unsafe fn encode_value(
    value: Option<pg_sys::Datum>,
    ty: &ArgumentType,
    sink: &mut dyn FnMut(&[u8]),
) {
    let Some(value) = value else {
        return sink(&[0]);
    };
    // SAFETY: the datum is of the type described; a composite datum carries its row type in its header.
    unsafe {
        if !ty.composite {
            with_bytes(value, ty, &mut |bytes| {
                sink(&[1]);
                if ty.length < 0 {
                    sink(&(bytes.len() as u32).to_le_bytes());
                }
                sink(bytes);
            });
            return;
        }
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast();
        let row_type = (*header).t_choice.t_datum;
        let desc = pg_sys::lookup_rowtype_tupdesc(row_type.datum_typeid, row_type.datum_typmod);
        let width = (*desc).natts as usize;
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        let mut values = vec![pg_sys::Datum::from(0usize); width];
        let mut nulls = vec![true; width];
        pg_sys::heap_deform_tuple(
            &raw mut tuple,
            desc,
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
        );
        sink(&[2]);
        for position in 0..width {
            let attribute = super::relation::attribute(desc, position);
            if !attribute.attisdropped {
                let ty =
                    ArgumentType::new(attribute.atttypid, attribute.attlen, attribute.attbyval);
                encode_value((!nulls[position]).then_some(values[position]), &ty, sink);
            }
        }
        sink(&[3]);
        pg_sys::DecrTupleDescRefCount(desc);
    }
}

unsafe fn each_value(
    fcinfo: pg_sys::FunctionCallInfo,
    sink: &mut dyn FnMut(Option<pg_sys::Datum>, &ArgumentType),
) {
    // SAFETY: arguments 0..nargs are valid for the call.
    unsafe {
        let types = argument_types(fcinfo);
        let arguments = (*fcinfo).args.as_ptr();
        for (position, ty) in types.iter().enumerate() {
            let argument = &*arguments.add(position);
            sink((!argument.isnull).then_some(argument.value), ty);
        }
    }
}

/// Feeds the injective encoding of all arguments to `sink`.
unsafe fn encode(fcinfo: pg_sys::FunctionCallInfo, sink: &mut dyn FnMut(&[u8])) {
    // SAFETY: as `each_value`.
    unsafe {
        each_value(fcinfo, &mut |value, ty| encode_value(value, ty, sink));
    }
}

/// Declares a function PostgreSQL can call by symbol: `$name` does what `$body` does.
macro_rules! sql_function {
    ($info:ident, $name:ident, $body:ident, $doc:literal) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }

        #[doc = $doc]
        #[unsafe(no_mangle)]
        #[pg_guard]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: called by PostgreSQL's function manager.
            unsafe { $body(fcinfo) }
        }
    };
}
pub(super) use sql_function;

sql_function!(
    pg_finfo_pgt_image,
    pgt_image,
    image_body,
    "`image(VARIADIC \"any\") bytea`"
);

unsafe fn image_body(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as PostgreSQL's function manager passes them.
    unsafe {
        let mut bytes: Vec<u8> = Vec::with_capacity(64);
        encode(fcinfo, &mut |part| bytes.extend_from_slice(part));
        let size = bytes.len() + pg_sys::VARHDRSZ;
        let result: *mut pg_sys::varlena = pg_sys::palloc(size).cast();
        pgrx::set_varsize_4b(result, size as i32);
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            result.cast::<u8>().add(pg_sys::VARHDRSZ),
            bytes.len(),
        );
        pg_sys::Datum::from(result)
    }
}

sql_function!(
    pg_finfo_pgt_image_hash,
    pgt_image_hash,
    image_hash_body,
    "`image_hash(VARIADIC \"any\") bigint`"
);

unsafe fn image_hash_body(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as PostgreSQL's function manager passes them.
    unsafe {
        let mut hasher = Xxh3Default::new();
        encode(fcinfo, &mut |part| hasher.update(part));
        pg_sys::Datum::from(hasher.digest() as i64)
    }
}

sql_function!(
    pg_finfo_pgt_row_hash,
    pgt_row_hash,
    row_hash_body,
    "`row_hash(VARIADIC \"any\") bigint`"
);

unsafe fn row_hash_body(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as PostgreSQL's function manager passes them.
    unsafe {
        let mut hasher = Xxh3Default::new();
        each_value(fcinfo, &mut |value, ty| match value {
            None => hasher.update(&[0]),
            Some(value) => {
                if ty.hash.get().is_null() {
                    resolve_hash(ty);
                }
                // Deterministic collations hash bytes; the caller leaves out columns of any other.
                let collation = pg_sys::Oid::from(C_COLLATION);
                let hash = pg_sys::FunctionCall2Coll(
                    ty.hash.get(),
                    collation,
                    value,
                    pg_sys::Datum::from(0usize),
                );
                hasher.update(&[1]);
                hasher.update(&(hash.value() as u64).to_le_bytes());
            }
        });
        pg_sys::Datum::from(hasher.digest() as i64)
    }
}

/// The collation `C`.
const C_COLLATION: u32 = 950;

/// Remembers the type's extended hash function.
unsafe fn resolve_hash(ty: &ArgumentType) {
    // SAFETY: type cache entries live as long as the session; the slot belongs to this call site alone.
    unsafe {
        let cache =
            pg_sys::lookup_type_cache(ty.oid, pg_sys::TYPECACHE_HASH_EXTENDED_PROC_FINFO as i32);
        if (*cache).hash_extended_proc == pg_sys::InvalidOid {
            let name = std::ffi::CStr::from_ptr(pg_sys::format_type_be(ty.oid))
                .to_string_lossy()
                .into_owned();
            pgrx::ereport!(
                ERROR,
                pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                format!("type {name} has no hash function")
            );
        }
        ty.hash.set(&raw mut (*cache).hash_extended_proc_finfo);
    }
}
